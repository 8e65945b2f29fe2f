package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/middleware"
)

// wrapped reads salaries through a function of two arguments, which fails at
// first.
func wrapped(ctx context.Context, s site) error {
	title("8. A function of two arguments is cached, tries again, and keeps nobody waiting")

	var queries atomic.Int64
	asked, known := make(chan struct{}), make(chan struct{})
	salary := func(ctx context.Context, job int64, currency string) (string, error) {
		if queries.Add(1) == 1 {
			return "", errors.New("connection reset")
		}
		if currency == "CHF" {
			close(asked)
			<-known // the exchange rate
		}
		return fmt.Sprint(job*1000, " ", currency), nil
	}
	caches, done, err := boards(ctx, s.servers, cachex.Spec[middleware.Args2[int64, string], string]{
		Key: "jobboard:salaries:{a}:{b}", TTL: time.Minute,
	})
	defer done()
	wrap := middleware.For(middleware.Func2(salary))
	patient := middleware.Chain2(salary, middleware.Cached(caches[0]), wrap.Retry(middleware.RetryOptions{}))
	hasty := middleware.Chain2(patient, wrap.Timeout(100*time.Millisecond))

	began := time.Now()
	euros, failed := patient(ctx, 80, "EUR")
	say(time.Since(began), "%s: the connection was reset, and the second query has it", euros)
	began = time.Now()
	var francs string
	var missed error
	var wg sync.WaitGroup
	wg.Go(func() { francs, missed = patient(ctx, 80, "CHF") })
	<-asked
	_, late := hasty(ctx, 80, "CHF")
	say(time.Since(began), "a visitor who has 100ms is told that it takes longer")
	close(known)
	wg.Wait()
	say(time.Since(began), "%s: one who has more, from the same load", francs)
	stats := remember("a wrapped function", caches...)
	return cmp.Or(err, failed, missed,
		expect("euros", euros, "80000 EUR"),
		expect("francs", francs, "80000 CHF"),
		expect("too late", errors.Is(late, context.DeadlineExceeded), true),
		expect("failures of loads", stats.LoadFailures, 0),
	)
}
