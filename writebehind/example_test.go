package writebehind_test

import (
	"context"
	"fmt"
	"time"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

func Example() {
	server, err := redistest.NewEmbedded()
	if err != nil {
		panic(err)
	}
	defer server.Close()
	views, err := writebehind.New(server.Client(nil), writebehind.Options{
		Name:  "views",
		Merge: writebehind.Sum,
		Persist: func(_ context.Context, b ledger.Batch) error {
			for _, id := range b.IDs() { // in a transaction, by Ledger.Once
				fmt.Println("UPDATE jobs: views of", id, "+", b.Deltas[id])
			}
			return nil
		},
		Buckets: 1, Every: time.Hour,
	})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	for _, job := range []string{"gopher", "pilot", "gopher"} {
		if err := views.Add(ctx, job, 1); err != nil {
			panic(err)
		}
	}
	if err := views.Close(ctx); err != nil { // persists the rest
		panic(err)
	}
	// Output:
	// UPDATE jobs: views of gopher + 2
	// UPDATE jobs: views of pilot + 1
}
