package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
)

// boards returns a cache of spec for each server, and a function that closes
// them. It clears the entries of an earlier run.
func boards[K comparable, V any](ctx context.Context, servers []redis.UniversalClient, spec cachex.Spec[K, V]) ([]*cachex.Cache[K, V], func(), error) {
	var caches []*cachex.Cache[K, V]
	for _, rdb := range servers {
		caches = append(caches, cachex.Must(cachex.New(rdb, spec)))
	}
	_, err := caches[0].Clear(ctx)
	return caches, func() {
		for _, c := range caches {
			_ = c.Close(ctx)
		}
	}, err
}

// until waits until ok returns true, for a few seconds at most.
func until(what string, ok func() bool) error {
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: it did not come to that", what)
		}
	}
	return nil
}

// staleAtOnce shows a stale number while one server counts again.
func staleAtOnce(ctx context.Context, s site) error {
	title("4. A number is out of date, and nobody waits for the new one")

	var runs atomic.Int64
	numbers, done, err := boards(ctx, s.servers, cachex.Spec[string, int64]{
		Key:                  "jobboard:numbers:{name}",
		TTL:                  200 * time.Millisecond,
		Jitter:               cachex.NoJitter,
		StaleWhileRevalidate: time.Hour,
		// The second number stays fresh, so that the chapter ends.
		TTLFor: func(_ string, n int64) time.Duration {
			if n == allJobs {
				return time.Hour
			}
			return 0
		},
		Up: func(ctx context.Context, _ string) (int64, error) {
			runs.Add(1)
			time.Sleep(300 * time.Millisecond) // counts ten more tables
			return s.db.OpenJobs(ctx)
		},
	})
	defer done()
	if err != nil {
		return err
	}
	began := time.Now()
	n, err := numbers[0].Get(ctx, "open")
	say(time.Since(began), "%d open jobs: counted in 300ms, fresh for 200ms", n)
	if err := cmp.Or(err, expect("open jobs", n, allJobs-1), s.db.SetOpen(ctx, 7, true)); err != nil {
		return err
	}
	time.Sleep(250 * time.Millisecond)

	began = time.Now()
	for i := range 100 {
		n, err := numbers[i%len(numbers)].Get(ctx, "open")
		if err := cmp.Or(err, expect("open jobs, out of date", n == allJobs-1 || n == allJobs, true)); err != nil {
			return err
		}
	}
	say(time.Since(began), "the job is open again, the number out of date: 100 visitors of four servers saw one all the same")
	err = until("a new number", func() bool {
		n, _, _ = numbers[3].Lookup(ctx, "open")
		return n == allJobs
	})
	say(time.Since(began), "%d open jobs: counted anew, once, while they did", n)
	stats := remember("a number out of date", numbers...)
	return cmp.Or(err,
		expect("counts", runs.Load(), 2),
		expect("visitors who waited", stats.Misses, 1),
	)
}

// databaseAway makes the database fail, and recover.
func databaseAway(ctx context.Context, s site) error {
	title("5. The database is away for a while")

	var away atomic.Bool
	var tries, fresh atomic.Int64
	jobs, done, err := boards(ctx, s.servers, cachex.Spec[int64, Job]{
		Key:          "jobboard:kept:{job_id}",
		TTL:          100 * time.Millisecond,
		Jitter:       cachex.NoJitter,
		StaleIfError: time.Hour,
		Backoff:      100 * time.Millisecond,
		Up: func(ctx context.Context, id int64) (Job, error) {
			if away.Load() {
				tries.Add(1)
				return Job{}, errors.New("connection refused")
			}
			fresh.Add(1)
			return s.db.Job(ctx, id)
		},
	})
	defer done()
	if err != nil {
		return err
	}
	if _, err := jobs[0].Get(ctx, 7); err != nil {
		return err
	}
	away.Store(true)
	time.Sleep(150 * time.Millisecond)

	began, reads := time.Now(), 0
	for tries.Load() < 3 || time.Since(began) < 600*time.Millisecond {
		job, err := jobs[reads%len(jobs)].Get(ctx, 7)
		if err := cmp.Or(err, expect("title", job.Title, "Gopher 7")); err != nil {
			return fmt.Errorf("during the outage: %w", err)
		}
		reads++
		time.Sleep(2 * time.Millisecond)
	}
	probes, took := tries.Load(), time.Since(began)
	say(took, "%d visitors have seen the job, as it was before", reads)
	note("the four servers together have tried to reach the database %d times", probes)
	_, err = jobs[1].Get(ctx, 8)
	note("a job that nobody had seen before: %v", err)
	if err == nil {
		return errors.New("there is a job 8")
	}

	away.Store(false)
	began, before := time.Now(), fresh.Load()
	var how cachex.Outcome
	err = until("the end of the outage", func() bool {
		_, _ = jobs[2].Get(cachex.WithOutcome(ctx, &how), 7)
		return fresh.Load() > before
	})
	say(time.Since(began), "the database was back, and the next try has found out: %v", how)
	stats := remember("the database is away", jobs...)
	return cmp.Or(err,
		// The pauses are 0.1, 0.2, 0.4 and 0.8 seconds, plus or minus a fifth.
		expect("a few tries", int(probes) <= 1+bits.Len64(uint64(took/(80*time.Millisecond))), true),
		expect("stale hits are the visitors", stats.StaleHits >= int64(reads), true),
		expect("failures are the tries", stats.LoadFailures, tries.Load()),
	)
}

// onePage shows a page of twenty jobs, with one query.
func onePage(ctx context.Context, s site) error {
	title("6. A page lists twenty jobs, and asks for all of them together")

	var queries, rows atomic.Int64
	jobs, done, err := boards(ctx, s.servers, cachex.Spec[int64, Job]{
		Key: "jobboard:list:{job_id}",
		TTL: time.Minute,
		UpMany: func(ctx context.Context, ids []int64) (map[int64]Job, error) {
			queries.Add(1)
			rows.Add(int64(len(ids)))
			time.Sleep(100 * time.Millisecond) // a slow query
			return s.db.Jobs(ctx, ids)
		},
	})
	defer done()
	if err != nil {
		return err
	}
	page := func(server int, from int64, comment string) error {
		var ids []int64
		for id := from; id < from+20; id++ {
			ids = append(ids, id)
		}
		began := time.Now()
		found, err := jobs[server].GetMany(ctx, ids)
		say(time.Since(began), "jobs %d to %d: %s", from, from+19, comment)
		return cmp.Or(err, expect("jobs on the page", len(found), 20), expect("title", found[from].Title, fmt.Sprint("Gopher ", from)))
	}
	err = cmp.Or(
		page(0, 1, "one query for 20 rows"),
		page(1, 1, "from Redis, on another server"),
		page(2, 11, "one query for the ten that were missing"),
	)
	stats := remember("a page of twenty", jobs...)
	return cmp.Or(err,
		expect("queries", queries.Load(), 2),
		expect("rows", rows.Load(), 30),
		expect("hits", stats.Hits, 30),
		expect("loads", stats.Loads, 2),
	)
}
