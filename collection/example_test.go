package collection_test

import (
	"context"
	"fmt"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/collection"
	"github.com/cachex-go/cachex/internal/redistest"
)

// The latest three jobs that were viewed.
func ExampleRecent() {
	server, err := redistest.NewEmbedded() // yours runs elsewhere
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	latest := cachex.Must(collection.NewRecent(server.Client(nil), collection.RecentSpec[struct{}, int64]{
		Key: "job:views:latest",
		TTL: time.Hour,
		Len: 3,
	}))
	ctx, board := context.Background(), struct{}{}
	for id := range int64(10) {
		if err := latest.Push(ctx, board, id); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(latest.Get(ctx, board))
	// Output:
	// [9 8 7] <nil>
}

// A list with a source is restored when it is absent. Write to the source first.
func ExampleRecentSpec_up() {
	server, err := redistest.NewEmbedded() // yours runs elsewhere
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	table := map[int64][]string{42: {"Gopher", "Rustacean"}} // latest first
	searches := cachex.Must(collection.NewRecent(server.Client(nil), collection.RecentSpec[int64, string]{
		Key:    "searches:{user_id}",
		TTL:    time.Hour,
		Len:    3,
		Unique: true,
		Up: func(_ context.Context, userID int64) ([]string, error) {
			fmt.Println("SELECT … WHERE user_id =", userID)
			return table[userID], nil
		},
	}))
	ctx := context.Background()
	fmt.Println(searches.Get(ctx, 42))

	table[42] = append([]string{"Pythonista"}, table[42]...)
	if err := searches.Push(ctx, 42, "Pythonista"); err != nil {
		fmt.Println(err)
	}
	fmt.Println(searches.Get(ctx, 42))
	fmt.Println(searches.Get(ctx, 43))
	fmt.Println(searches.Get(ctx, 43)) // the empty list is remembered
	// Output:
	// SELECT … WHERE user_id = 42
	// [Gopher Rustacean] <nil>
	// [Pythonista Gopher Rustacean] <nil>
	// SELECT … WHERE user_id = 43
	// [] <nil>
	// [] <nil>
}

// The top three jobs by views.
func ExampleRanking() {
	server, err := redistest.NewEmbedded() // yours runs elsewhere
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	top := cachex.Must(collection.NewRanking(server.Client(nil), collection.RankingSpec[struct{}, int64]{
		Key: "jobs:top",
		TTL: time.Hour,
		Top: 3,
	}))
	ctx, board := context.Background(), struct{}{}
	view := func(from, to int64) {
		for id := from; id < to; id++ {
			if _, err := top.Add(ctx, board, id, 1); err != nil {
				fmt.Println(err)
			}
		}
	}
	view(0, 10)
	view(2, 5)
	view(4, 6)
	fmt.Println(top.Get(ctx, board)) // Spec.Top is 3

	rank, score, err := top.Rank(ctx, board, 2)
	fmt.Println(rank, score, err)
	near, first, err := top.Around(ctx, board, 2, 1)
	fmt.Println(near, first, err)
	// Output:
	// [{4 3} {5 2} {3 2}] <nil>
	// 4 2 <nil>
	// [{3 2} {2 2} {9 1}] 3 <nil>
}

// Views of a job count once for each user: the check and the insertion are one
// step.
func ExampleSet() {
	server, err := redistest.NewEmbedded() // yours runs elsewhere
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	viewers := cachex.Must(collection.NewSet(server.Client(nil), collection.SetSpec[int64, int64]{
		Key: "jobs:{job_id}:viewers",
		TTL: time.Hour,
	}))
	ctx := context.Background()
	for _, userID := range []int64{1, 2, 1} {
		added, err := viewers.Add(ctx, 7, userID)
		fmt.Println("user", userID, "new:", added == 1, err)
	}
	fmt.Println(viewers.Len(ctx, 7))
	// Output:
	// user 1 new: true <nil>
	// user 2 new: true <nil>
	// user 1 new: false <nil>
	// 2 <nil>
}
