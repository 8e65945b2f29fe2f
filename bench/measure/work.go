// Package measure pits ways to do one work against each other, in rounds of one run:
// the machine is never the same twice, so only ratios within a round mean something.
package measure

import (
	"context"
	"time"
)

// A Call does the work once. It is called by many goroutines at the same time.
type Call func(ctx context.Context) error

// A Variant is one way to do a work.
type Variant struct {
	Name string // of the library, or of what a user writes with it. Required
	Call Call   // Required

	// Burst is how many calls there are between two looks at the clock: more than one
	// for calls that take about as long as a look. They have no latencies then.
	// Defaults to 1.
	Burst int

	// Settle finishes what calls have left behind, and is a part of the time that they
	// take. Defaults to nil.
	Settle func() error
}

// A Work is something that a user wants done, and the ways to do it.
type Work struct {
	Name       string    // Required
	Note       string    // what is done and what is the same for all, in sentences. Required
	Goroutines []int     // so many do it at once, each one call after the other. Required
	Base       Variant   // what the others are measured against. Required
	Variants   []Variant // Required
	Targets    []Target  // Defaults to none

	// Ends says that the calls of each goroutine have a ctx that can end, as that of a
	// request; else it is context.Background(). Defaults to false.
	Ends bool
}

// A Target is what a variant must reach, to the median of the rounds.
type Target struct {
	Variant    string  // Required
	Goroutines int     // Required
	Versus     string  // another variant. Defaults to the base
	What       Measure // Defaults to Speed
	Bound      float64 // at least for Speed, at most for the others
}

// A Measure is what a Target is about.
type Measure int

// Measures.
const (
	Speed  Measure = iota // calls a second, as a multiple of those of the other variant
	P99                   // the time that 99 of 100 calls keep below, likewise
	Allocs                // allocations of one call
)

// Options say how long to measure.
type Options struct {
	Rounds int           // in each of which every variant runs once. Required
	Length time.Duration // of one variant in one round. Required
}
