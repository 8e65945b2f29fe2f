// Package measure compares ways to do one work, in rounds of one run. The
// machine is never the same twice, so only ratios within a round are
// meaningful.
package measure

import (
	"context"
	"time"
)

// Call does the work once. Many goroutines call it at the same time.
type Call func(ctx context.Context) error

// Variant is one way to do a work.
type Variant struct {
	Name string // name of the library, or of the user's code. Required
	Call Call   // Required

	// Burst is the number of calls between two readings of the clock. It
	// exceeds 1 for calls that take about as long as a reading. Such calls have
	// no latencies. Defaults to 1.
	Burst int

	// Settle finishes work that calls have left behind. Its time counts as a
	// part of theirs. Defaults to nil.
	Settle func() error
}

// Work is a task of a user, and the ways to do it.
type Work struct {
	Name       string    // Required
	Note       string    // sentences that describe the work and the parts that all variants share. Required
	Goroutines []int     // numbers of goroutines, each of which makes one call after the other. Required
	Base       Variant   // the baseline of the others. Required
	Variants   []Variant // Required
	Targets    []Target  // Defaults to nil

	// Ends says that each goroutine's calls have a ctx that can end, as in a
	// request. Otherwise it is context.Background(). Defaults to false.
	Ends bool
}

// Target is a bound that the median of the rounds of a variant must reach.
type Target struct {
	Variant    string  // Required
	Goroutines int     // Required
	Versus     string  // another variant. Defaults to the base
	What       Measure // Defaults to Speed
	Bound      float64 // at least for Speed, at most for the others. Required
}

// Measure is the quantity that a Target bounds.
type Measure int

// The measures.
const (
	Speed  Measure = iota // calls a second, as a multiple of the other variant's
	P99                   // time within which 99 of 100 calls return, as a multiple of the other variant's
	Allocs                // allocations per call
)

// Options says how long to measure.
type Options struct {
	Rounds int           // number of rounds, in each of which every variant runs once. Required
	Length time.Duration // of one variant in one round. Required
}
