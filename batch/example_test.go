package batch_test

import (
	"context"
	"fmt"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/redistest"
)

// A page shows the session of its visitor, and how often each of its jobs was seen:
// two kinds of values, in one round trip. Job 3 has not been counted lately, and its
// views are restored from the database.
//
// With a pipeline by hand, what is missing would stay missing, and each reply would
// have to be decoded by whoever knows what was asked for at its place.
func Example() {
	server, err := redistest.NewEmbedded() // in a program, rdb is of yours
	if err != nil {
		panic(err)
	}
	defer server.Close()
	rdb := server.Client(nil)
	ctx := context.Background()

	sessions := cachex.Must(cachex.New(rdb, cachex.Spec[int64, string]{
		Key: "sessions:{user_id}",
		TTL: 100 * time.Second,
	}))
	views := cachex.Must(cachex.New(rdb, cachex.Spec[int64, int64]{
		Key: "jobs:{job_id}:views",
		TTL: 100 * time.Second,
		Up: func(_ context.Context, jobID int64) (int64, error) {
			fmt.Println("Restore the views of job", jobID)
			return 10, nil
		},
	}))
	getCache := func(userID int64, jobIDs ...int64) (map[string]any, error) {
		var b batch.Batch
		session := batch.Get(&b, sessions, userID)
		counts := batch.GetMany(&b, views, jobIDs)
		if err := b.Run(ctx); err != nil {
			return nil, err
		}
		user, err := session.Get()
		if err != nil {
			return nil, err
		}
		found, err := counts.Get()
		if err != nil {
			return nil, err
		}
		page := map[string]any{"user": user}
		for id, n := range found {
			page[fmt.Sprint("job:", id)] = n
		}
		return page, nil
	}

	_ = sessions.Set(ctx, 1, "session...")
	_ = views.SetMany(ctx, map[int64]int64{1: 5, 2: 11})
	fmt.Println(getCache(1, 1, 2, 3))
	fmt.Println(getCache(2, 1))
	// Output:
	// Restore the views of job 3
	// map[job:1:5 job:2:11 job:3:10 user:session...] <nil>
	// map[] cachex: get sessions:2: not found
}
