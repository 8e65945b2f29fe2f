package collection_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/collection"
	"github.com/cachex-go/cachex/internal/redistest"
)

// grows is the score of jobs: an ID that grows tells which was posted later.
func grows(jobID int64) float64 { return float64(jobID) }

// The jobs of companies that a user follows.
func ExampleFeed() {
	server, err := redistest.NewEmbedded() // yours runs elsewhere
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	feed := cachex.Must(collection.NewFeed(server.Client(nil), collection.FeedSpec[string, int64]{
		Key:   "feed:{user}",
		TTL:   30 * 24 * time.Hour,
		Len:   800,
		Score: grows,
	}))
	ctx := context.Background()
	for _, err := range []error{
		feed.Post(ctx, 7, "ann", "bob"), // the followers of the company
		feed.Post(ctx, 8, "bob"),
		feed.Post(ctx, 9, "ann", "bob"),
		feed.Post(ctx, 9, "ann", "bob"), // again: nothing changes
		feed.Remove(ctx, 7, "ann", "bob"),
	} {
		if err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(feed.Get(ctx, "ann"))
	fmt.Println(feed.Get(ctx, "bob"))
	// Output:
	// [9] <nil>
	// [9 8] <nil>
}

// A post goes to a sequence of keys, which a database may return page by page.
// If the process dies, another one resumes from the last progress.
func ExampleFeed_PostSeq() {
	server, err := redistest.NewEmbedded() // yours runs elsewhere
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	feed := cachex.Must(collection.NewFeed(server.Client(nil), collection.FeedSpec[int64, int64]{
		Key: "feed:{user_id}", TTL: time.Hour, Len: 800, Score: grows,
	}))
	followers := func(after int64) func(yield func(int64) bool) { // SELECT … WHERE user_id > after ORDER BY user_id
		return func(yield func(int64) bool) {
			for id := after + 1; id <= 1200 && yield(id); id++ {
			}
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	err = feed.PostSeq(ctx, 7, followers(0), func(p collection.FanOut[int64]) {
		fmt.Println("reached", p.Done, "up to", p.Last)
		if p.Done == 1000 {
			stop()
		}
	})
	var fan *collection.FanOutError[int64]
	if errors.As(err, &fan) {
		fmt.Println(fan)
		err = feed.PostSeq(context.Background(), 7, followers(fan.Last), nil)
	}
	fmt.Println(err)
	fmt.Println(feed.Get(context.Background(), 1200))
	// Output:
	// reached 500 up to 500
	// reached 1000 up to 1000
	// 0 of the first 1000 keys were not reached: context canceled
	// <nil>
	// [7] <nil>
}

// Pages of a timeline, merged with one whose author has too many followers.
func ExampleFeed_GetPage() {
	server, err := redistest.NewEmbedded() // yours runs elsewhere
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	rdb := server.Client(nil)
	feed := cachex.Must(collection.NewFeed(rdb, collection.FeedSpec[string, int64]{
		Key: "feed:{user}", TTL: time.Hour, Len: 800, Score: grows,
	}))
	posts := cachex.Must(collection.NewFeed(rdb, collection.FeedSpec[int64, int64]{
		Key: "companies:{company_id}:jobs", TTL: time.Hour, Len: 800, Score: grows,
	}))
	ctx := context.Background()
	for jobID := range int64(8) {
		if jobID%3 > 0 {
			err = feed.Post(ctx, jobID, "ann")
		} else {
			err = posts.Post(ctx, jobID, 42) // a company with too many followers
		}
		if err != nil {
			fmt.Println(err)
		}
	}
	var after collection.Cursor
	for {
		page, next, err := feed.GetPage(ctx, "ann", after, 3, posts.Timeline(42))
		fmt.Println(page, err)
		if next == "" {
			break
		}
		after = next // part of the URL of the next page
	}
	_, _, err = feed.GetPage(ctx, "ann", "of another site", 3)
	fmt.Println(errors.Is(err, collection.ErrCursor))
	// Output:
	// [7 6 5] <nil>
	// [4 3 2] <nil>
	// [1 0] <nil>
	// true
}

// The top jobs by views of the last 24 hours.
func ExampleTrending() {
	server, err := redistest.NewEmbedded() // yours runs elsewhere
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	top := cachex.Must(collection.NewTrending(server.Client(nil), collection.TrendingSpec[struct{}, int64]{
		Key:     "jobs:trending",
		Bucket:  time.Hour,
		Buckets: 24,
		Top:     3,
	}))
	ctx, board := context.Background(), struct{}{}
	for _, jobID := range []int64{7, 8, 9, 8, 7, 8, 5} {
		if _, err := top.Add(ctx, board, jobID, 1); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(top.Get(ctx, board))
	fmt.Println(top.Add(ctx, board, 9, 5))
	// Output:
	// [{8 3} {7 2} {9 1}] <nil>
	// 6 <nil>
}

// Collections and caches are read in one round trip.
func ExampleRecent_BatchRead() {
	server, err := redistest.NewEmbedded() // yours runs elsewhere
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	rdb := server.Client(nil)
	names := cachex.Must(cachex.New(rdb, cachex.Spec[int64, string]{
		Key: "names:{user_id}", TTL: time.Hour,
		Up: func(context.Context, int64) (string, error) { return "Ada", nil },
	}))
	searches := cachex.Must(collection.NewRecent(rdb, collection.RecentSpec[int64, string]{
		Key: "searches:{user_id}", TTL: time.Hour, Len: 3,
		Up: func(context.Context, int64) ([]string, error) { return []string{"Gopher"}, nil },
	}))
	ctx := context.Background()
	var b batch.Batch
	name, latest := batch.Get(&b, names, 42), batch.Get(&b, searches, 42)
	if err := b.Run(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println(name.Get())
	fmt.Println(latest.Get())
	// Output:
	// Ada <nil>
	// [Gopher] <nil>
}
