package main

import (
	"cmp"
	"context"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
)

// onePageOfAll shows the name of the visitor, twenty jobs, and how often each
// was seen: values of three kinds.
func onePageOfAll(ctx context.Context, s site) error {
	title("7. A page shows a session, twenty jobs and their views, in one round trip")

	const query = 50 * time.Millisecond // a slow query
	sessions, doneSessions, err := boards(ctx, s.servers[:1], cachex.Spec[int64, string]{
		Key: "jobboard:sessions:{user_id}",
		TTL: time.Minute,
	})
	defer doneSessions()
	if err != nil {
		return err
	}
	jobs, doneJobs, err := boards(ctx, s.servers[:1], cachex.Spec[int64, Job]{
		Key: "jobboard:page:{job_id}",
		TTL: time.Minute,
		UpMany: func(ctx context.Context, ids []int64) (map[int64]Job, error) {
			time.Sleep(query)
			return s.db.Jobs(ctx, ids)
		},
	})
	defer doneJobs()
	if err != nil {
		return err
	}
	views, doneViews, err := boards(ctx, s.servers[:1], cachex.Spec[int64, int64]{
		Key: "jobboard:page:{job_id}:views",
		TTL: time.Minute,
		UpMany: func(ctx context.Context, ids []int64) (map[int64]int64, error) {
			time.Sleep(query)
			return s.db.ViewsOf(ctx, ids)
		},
	})
	defer doneViews()
	if err := cmp.Or(err, sessions[0].Set(ctx, 42, "Ada")); err != nil {
		return err
	}
	trips := new(tripCounter)
	s.servers[0].AddHook(trips)
	var ids []int64
	for id := range int64(20) {
		ids = append(ids, id+1)
	}
	page := func(comment string) error {
		trips.n.Store(0)
		began := time.Now()
		var b batch.Batch
		session := batch.Get(&b, sessions[0], 42)
		list := batch.GetMany(&b, jobs[0], ids)
		seen := batch.GetMany(&b, views[0], ids)
		err := b.Run(ctx)
		took := time.Since(began)
		user, errUser := session.Get()
		found, errJobs := list.Get()
		counts, errViews := seen.Get()
		say(took, "%s sees %d jobs and %d counts of views: %s", user, len(found), len(counts), comment)
		return cmp.Or(err, errUser, errJobs, errViews,
			expect("session", user, "Ada"),
			expect("title", found[7].Title, "Gopher 7"),
			expect("views", counts[7], 70),
		)
	}
	err = cmp.Or(
		page("two queries, side by side"),
		page("all from Redis"),
		expect("round trips", trips.n.Load(), 1),
	)
	remember("a page of all kinds", views...)
	return err
}
