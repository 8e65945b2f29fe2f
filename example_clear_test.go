package cachex_test

import (
	"context"
	"fmt"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
)

// A new release computes prices otherwise, so what the old one has cached is to go.
func ExampleCache_Clear() {
	server, err := redistest.NewEmbedded() // in a program: a Redis
	if err != nil {
		panic(err)
	}
	defer server.Close()
	rdb, ctx := server.Client(nil), context.Background()

	prices := cachex.Must(cachex.New(rdb, cachex.Spec[int, string]{Key: "products:{id}:price", TTL: time.Hour}))
	names := cachex.Must(cachex.New(rdb, cachex.Spec[int, string]{Key: "products:{id}", TTL: time.Hour}))
	for id := range 3 {
		_ = prices.Set(ctx, id, "9.99")
		_ = names.Set(ctx, id, "lamp")
	}

	// It may take a while where there are many keys.
	watched := cachex.WithProgress(ctx, func(p cachex.Progress) {
		fmt.Printf("%d of %d keys seen, %d removed\n", p.Scanned, p.Keys, p.Removed)
	})
	n, err := prices.Clear(watched)
	fmt.Println(n, err)

	_, ok, err := prices.Lookup(ctx, 1)
	fmt.Println(ok, err)
	name, ok, err := names.Lookup(ctx, 1)
	fmt.Println(name, ok, err)
	// Output:
	// 6 of 6 keys seen, 3 removed
	// 3 <nil>
	// false <nil>
	// lamp true <nil>
}
