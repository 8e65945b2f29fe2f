package main

import (
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cachex-go/cachex/bench/measure"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestMain(m *testing.M) { redistest.Main(m) }

// tiny returns options that measure nothing, and call everything.
func tiny() options {
	return options{
		Options: measure.Options{Rounds: 1, Length: time.Millisecond},
		only:    regexp.MustCompile(""), stampedes: 1, entries: 500, most: 300,
	}
}

// A row must run to count. The figures measured here mean nothing.
func TestEveryRowRuns(t *testing.T) {
	t.Parallel()
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			sections, err := g.sections(t, tiny())
			if err != nil {
				t.Fatal(err)
			}
			if len(sections) == 0 {
				t.Fatal("there are no works")
			}
		})
	}
}

// BenchmarkWorks runs each variant alone, for profiles. Its times are not
// comparable.
func BenchmarkWorks(b *testing.B) {
	for _, g := range groups {
		if g.works == nil {
			continue
		}
		b.Run(g.name, func(b *testing.B) {
			for _, w := range g.works(b, options{most: many}) {
				b.Run(w.Name, func(b *testing.B) { benchmark(b, &w) })
			}
		})
	}
}

func benchmark(b *testing.B, w *measure.Work) {
	for _, g := range w.Goroutines {
		for _, v := range append(w.Variants, w.Base) {
			b.Run(fmt.Sprintf("%d/%s", g, v.Name), func(b *testing.B) {
				b.ReportAllocs()
				var left atomic.Int64
				left.Store(int64(b.N))
				var wg sync.WaitGroup
				for range g {
					wg.Go(func() {
						for left.Add(-1) >= 0 {
							if err := v.Call(b.Context()); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}
