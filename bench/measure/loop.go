package measure

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// sample is the result of one variant in one round.
type sample struct {
	rate   float64       // calls a second
	p99    time.Duration // 0: not timed
	allocs float64       // per call
	bytes  float64       // allocated per call
}

// loop runs exactly g goroutines that call v for length, each one call after
// the other.
func (w *Work) loop(v Variant, g int, length time.Duration) (sample, error) {
	burst := max(1, v.Burst)
	times := make([]histogram, g)
	counts := make([]int64, g)
	errs := make([]error, g)
	start := make(chan struct{})
	var ready, done sync.WaitGroup
	var began time.Time // written before start is closed
	for i := range g {
		ready.Add(1)
		done.Go(func() {
			ctx, cancel := context.Background(), context.CancelFunc(func() {})
			if w.Ends {
				ctx, cancel = context.WithCancel(ctx)
			}
			defer cancel()
			ready.Done()
			<-start
			// The end of a call is the start of the next one. So each call
			// reads the clock once, and the reading also tells when to stop.
			n, last := int64(0), began
			for last.Sub(began) < length {
				for range burst {
					if err := v.Call(ctx); err != nil {
						errs[i] = err
						return
					}
				}
				now := time.Now()
				if burst == 1 {
					times[i].add(now.Sub(last))
				}
				n, last = n+int64(burst), now
			}
			counts[i] = n
		})
	}
	ready.Wait()
	runtime.GC() // so that no variant pays for the garbage of the one before
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began = time.Now()
	close(start)
	done.Wait()
	for _, err := range errs {
		if err != nil {
			return sample{}, err
		}
	}
	if v.Settle != nil {
		if err := v.Settle(); err != nil {
			return sample{}, err
		}
	}
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	var calls int64
	var all histogram
	for i, n := range counts {
		calls += n
		all.merge(&times[i])
	}
	return sample{
		rate:   float64(calls) / took.Seconds(),
		p99:    all.quantile(.99),
		allocs: float64(after.Mallocs-before.Mallocs) / float64(calls),
		bytes:  float64(after.TotalAlloc-before.TotalAlloc) / float64(calls),
	}, nil
}
