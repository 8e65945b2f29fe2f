package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/counter"
)

// counters returns a counter of spec for each server, and the same counters as
// caches.
func counters(s site, spec counter.Spec[int64]) (counters []*counter.Counter[int64], caches []*cachex.Cache[int64, int64]) {
	for _, rdb := range s.servers {
		c := cachex.Must(counter.New(rdb, spec))
		counters, caches = append(counters, c), append(caches, c.Cache)
	}
	return counters, caches
}

// closeAll closes caches.
func closeAll[K comparable, V any](ctx context.Context, caches []*cachex.Cache[K, V]) error {
	errs := make([]error, len(caches))
	for i, c := range caches {
		errs[i] = c.Close(ctx)
	}
	return errors.Join(errs...)
}

// uniqueViews counts each user who has viewed a job once: a table records them.
func uniqueViews(ctx context.Context, s site) error {
	title("11. A table tells who has viewed a job, and Redis how many")

	views, caches := counters(s, counter.Spec[int64]{
		Key:      "jobboard:viewers:{job_id}",
		TTL:      100 * time.Second,
		Up:       s.db.Viewers, // count(*)
		UpCounts: true,         // includes the view that is being counted
	})
	defer func() { _ = closeAll(ctx, caches) }()
	view := func(server int, job, user int64) (int64, error) {
		first, err := s.db.View(ctx, job, user)
		if err != nil {
			return 0, err
		}
		if !first {
			return views[server].Get(ctx, job)
		}
		return views[server].Inc(ctx, job)
	}

	a, errA := view(0, 1, 1)
	b, errB := view(1, 1, 2)
	c, errC := view(2, 2, 1)
	if err := cmp.Or(errA, errB, errC); err != nil {
		return err
	}
	counts, err := views[3].GetMany(ctx, []int64{1, 2, 3})
	if err != nil {
		return err
	}
	note("job 1 has %d viewer, then %d, and job 2 has %d: %v", a, b, c, counts)

	began := time.Now()
	var failed atomic.Int64
	var visits sync.WaitGroup
	for i := range int64(100) {
		visits.Go(func() { // fifty users come twice
			if _, err := view(int(i)%len(views), 1, 1+i%50); err != nil {
				failed.Add(1)
			}
		})
	}
	visits.Wait()
	n, err := views[0].Get(ctx, 1)
	say(time.Since(began), "fifty users have come twice each: job 1 has %d viewers", n)
	how, errFlush := s.flush(ctx)
	if err := cmp.Or(err, errFlush); err != nil {
		return err
	}
	m, err := view(3, 1, 51)
	note("%s: the next viewer is number %d", how, m)
	remember("unique views", caches...)
	return cmp.Or(err,
		expect("counts", maps.Equal(counts, map[int64]int64{1: 2, 2: 1, 3: 0}), true),
		expect("first views", [3]int64{a, b, c}, [3]int64{1, 2, 1}),
		expect("views that failed", failed.Load(), 0),
		expect("viewers", n, 50),
		expect("viewers after the flush", m, 51),
	)
}

// viewsBehind counts all views, and tells the database later.
func viewsBehind(ctx context.Context, s site) error {
	title("12. All views are counted in Redis, and added to the database behind")

	views, caches := counters(s, counter.Spec[int64]{
		Key:        "jobboard:views:{job_id}",
		TTL:        100 * time.Second,
		Up:         s.db.Views,
		UpMany:     s.db.ViewsOf,
		Down:       s.db.AddViews,
		FlushEvery: 100 * time.Millisecond,
	})
	defer func() { _ = closeAll(ctx, caches) }() // already closed, unless an error occurred
	jobs := []int64{1, 2, 3, 4, 5}
	before, err := s.db.ViewsOf(ctx, jobs)
	if err != nil {
		return err
	}

	var acknowledged atomic.Int64
	crowd := func() {
		began := time.Now()
		var visits sync.WaitGroup
		for i := range 200 {
			visits.Go(func() {
				if _, err := views[i%len(views)].Inc(ctx, jobs[i%len(jobs)]); err == nil {
					acknowledged.Add(1)
				}
			})
		}
		visits.Wait()
		say(time.Since(began), "200 visitors of four servers view five jobs: %d views are acknowledged", acknowledged.Load())
	}
	crowd()
	began := time.Now()
	if err := views[0].Flush(ctx); err != nil {
		return err
	}
	table, err := s.db.ViewsOf(ctx, jobs)
	say(time.Since(began), "what was not persisted yet, is: the table has %d more", sum(table)-sum(before))
	how, errFlush := s.flush(ctx)
	left, errLook := views[1].LookupMany(ctx, jobs)
	if err := cmp.Or(err, errFlush, errLook); err != nil {
		return err
	}
	note("%s: of five counts, Redis has %d", how, len(left))
	began = time.Now()
	restored, err := views[2].GetMany(ctx, jobs)
	say(time.Since(began), "and five as soon as somebody asks: %d views in all, as in the table", sum(restored))
	if err != nil {
		return err
	}

	crowd()
	counts, err := views[3].GetMany(ctx, jobs)
	if err := cmp.Or(err, closeAll(ctx, caches)); err != nil { // persists the remaining counts
		return err
	}
	inTable, err := s.db.ViewsOf(ctx, jobs)
	var forgot int64
	for _, c := range caches {
		forgot += c.Stats().WriteBehind.Forks.Lost
	}
	note("%d in the table, %d in Redis, %d before and %d acknowledged since", sum(inTable), sum(counts), sum(before), acknowledged.Load())
	note("the ledger has noticed that Redis had forgotten %d buckets", forgot)
	remember("views behind", caches...)
	return cmp.Or(err,
		expect("in the table after a flush", sum(table)-sum(before), 200),
		expect("counts left", len(left), 0),
		expect("restored", maps.Equal(restored, table), true),
		expect("acknowledged", acknowledged.Load(), 400),
		expect("in the table", sum(inTable), sum(before)+400),
		expect("the counts are those of the table", maps.Equal(counts, inTable), true),
		expect("Redis has forgotten something", forgot > 0, true),
	)
}

func sum(counts map[int64]int64) (total int64) {
	for n := range maps.Values(counts) {
		total += n
	}
	return total
}
