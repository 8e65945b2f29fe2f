package cachex_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
)

// A heavy task is run in the background, every so often, by one of three servers,
// and nobody ever waits for it. If that server dies, another one goes on.
func ExampleCache_RefreshEvery() {
	server, err := redistest.NewEmbedded() // yours is somewhere else
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	const every = time.Minute
	heavyTask := func(context.Context, string) (int, error) {
		fmt.Println("Run hard task.")
		return 10, nil
	}
	ctx, stop := context.WithCancel(context.Background())
	var servers sync.WaitGroup
	var reader *cachex.Cache[string, int]
	for range 3 {
		cache := cachex.Must(cachex.New(server.Client(nil), cachex.Spec[string, int]{
			Key: "tasks:{name}",
			TTL: 2 * every, // so that there always is a value
			Up:  heavyTask,
		}))
		servers.Go(func() {
			_ = cache.RefreshEvery(ctx, every, "heavy") // blocks until ctx ends
		})
		reader = cache
	}

	// Lookup never loads. Here it waits for the first run to be over.
	n, ok, err := reader.Lookup(ctx, "heavy")
	for !ok && err == nil {
		n, ok, err = reader.Lookup(ctx, "heavy")
	}
	fmt.Println("Get cache:", n, err)

	stop()
	servers.Wait()
	// Output:
	// Run hard task.
	// Get cache: 10 <nil>
}
