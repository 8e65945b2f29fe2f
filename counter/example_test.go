package counter_test

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

// exampleRedis returns a client of an embedded server.
func exampleRedis() (rdb *redis.Client, done func()) {
	server, err := redistest.NewEmbedded()
	if err != nil {
		panic(err)
	}
	return server.Client(nil), server.Close
}

// Views of jobs are counted, and read for a page of jobs in one round trip.
// With INCR and EXPIRE by hand, a lost connection may count a view twice, or
// leave a count that never expires.
func Example() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	views := cachex.Must(counter.New(rdb, counter.Spec[int]{Key: "jobs:{job_id}:views", TTL: 100 * time.Second}))
	fmt.Println(views.Inc(ctx, 1))
	fmt.Println(views.Inc(ctx, 1))
	fmt.Println(views.Inc(ctx, 2))
	fmt.Println(views.GetMany(ctx, []int{1, 2, 3}))
	// Output:
	// 1 <nil>
	// 2 <nil>
	// 1 <nil>
	// map[1:2 2:1 3:0] <nil>
}

// Counts that have expired or were flushed are restored from the database. By
// hand, a caller that sees INCR return 1 would load and SET, and lose
// concurrent additions.
func ExampleSpec_restore() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	views := cachex.Must(counter.New(rdb, counter.Spec[int]{
		Key: "jobs:{job_id}:views",
		TTL: 100 * time.Second,
		Up: func(context.Context, int) (int64, error) {
			return 10, nil // SELECT count(*) FROM views WHERE job_id = ?
		},
	}))
	fmt.Println(views.Inc(ctx, 1))
	fmt.Println(views.Inc(ctx, 1))
	fmt.Println(views.Inc(ctx, 2))
	fmt.Println(views.GetMany(ctx, []int{1, 2, 3}))
	// Output:
	// 11 <nil>
	// 12 <nil>
	// 11 <nil>
	// map[1:12 2:11 3:10] <nil>
}

// Counts that reach the database only through Down.
func ExampleSpec_down() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	table := map[int]int64{1: 1000}
	views := cachex.Must(counter.New(rdb, counter.Spec[int]{
		Key: "jobs:{job_id}:views",
		TTL: 100 * time.Second,
		Up:  func(_ context.Context, job int) (int64, error) { return table[job], nil },
		Down: func(_ context.Context, f counter.Flush[int]) error { // in a transaction, by Ledger.Once
			for job, delta := range f.Deltas {
				fmt.Println("UPDATE jobs: views of", job, "+", delta)
				table[job] += delta
			}
			return nil
		},
		FlushEvery: time.Hour,
	}))
	for range 3 {
		fmt.Println(views.Inc(ctx, 1))
	}
	fmt.Println(views.Close(ctx)) // persists the pending additions
	// Output:
	// 1001 <nil>
	// 1002 <nil>
	// 1003 <nil>
	// UPDATE jobs: views of 1 + 3
	// <nil>
}

// The addition of a payment may be retried until it succeeds.
func ExampleCounter_AddOnce() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	paid := cachex.Must(counter.New(rdb, counter.Spec[string]{Key: "shops:{id}:paid", TTL: cachex.Forever}))
	for range 3 {
		fmt.Println(paid.AddOnce(ctx, "north", 250, "payment 17"))
	}
	// Output:
	// 250 <nil>
	// 250 <nil>
	// 250 <nil>
}

func ExampleBuffer() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	hits := cachex.Must(counter.New(rdb, counter.Spec[string]{Key: "pages:{page}:hits", TTL: time.Hour}))
	b, err := counter.NewBuffer(hits, counter.BufferOptions{})
	if err != nil {
		panic(err)
	}
	for range 100_000 { // only a few calls to Redis
		if err := b.Inc("/"); err != nil {
			panic(err)
		}
	}
	fmt.Println(hits.Flush(ctx)) // or within BufferOptions.Every
	fmt.Println(hits.Get(ctx, "/"))
	// Output:
	// <nil>
	// 100000 <nil>
}
