package cachex_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
)

// exampleRedis starts the Redis of an example. In a program, rdb is of yours.
func exampleRedis() (rdb *redis.Client, done func()) {
	server, err := redistest.NewEmbedded()
	if err != nil {
		panic(err)
	}
	return server.Client(nil), server.Close
}

// A heavy task is run once, and its result is shown until it is too old.
//
// With GET and SETEX by hand, everybody who comes while the task runs would run it
// as well, and could store its result over a newer one.
func ExampleCache_Get() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	numbers := cachex.Must(cachex.New(rdb, cachex.Spec[string, int]{
		Key: "tasks:{name}",
		TTL: 2 * time.Minute,
		Up: func(ctx context.Context, name string) (int, error) {
			fmt.Println("Run hard task.")
			count := 0
			for range 10 {
				count++
			}
			return count, nil
		},
	}))
	fmt.Println(numbers.Get(ctx, "hard"))
	fmt.Println(numbers.Get(ctx, "hard"))
	// Output:
	// Run hard task.
	// 10 <nil>
	// 10 <nil>
}

// A value that is too old is shown all the same, at once, while one process runs
// the task again.
//
// The document asks for GET and TTL, and then for its flag by GET and SETEX: two
// processes may both find none, and each has a flag of its own set at last.
func Example_staleWhileRevalidate() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	started, finish := make(chan struct{}), make(chan struct{})
	var runs atomic.Int64
	numbers := cachex.Must(cachex.New(rdb, cachex.Spec[string, int64]{
		Key:                  "tasks:{name}",
		TTL:                  2 * time.Minute,  // fresh
		StaleWhileRevalidate: 18 * time.Minute, // then stale, and still there
		Up: func(context.Context, string) (int64, error) {
			n := runs.Add(1)
			if n == 2 {
				close(started)
				<-finish // a heavy task
			}
			return 10 * n, nil
		},
	}))
	fmt.Println(numbers.Get(ctx, "hard"))

	// In place of waiting for two minutes.
	if err := numbers.Expire(ctx, "hard"); err != nil {
		fmt.Println(err)
	}
	fmt.Println(numbers.Get(ctx, "hard"))
	<-started
	fmt.Println(numbers.Get(ctx, "hard")) // while the task runs
	close(finish)

	// Lookup never loads, so it does not run the task a third time.
	n, _, err := numbers.Lookup(ctx, "hard")
	for n == 10 && err == nil {
		n, _, err = numbers.Lookup(ctx, "hard")
	}
	fmt.Println(n, err)
	fmt.Println("runs:", numbers.Stats().Loads)
	// Output:
	// 10 <nil>
	// 10 <nil>
	// 10 <nil>
	// 20 <nil>
	// runs: 2
}

// Thirty visitors of three servers ask at the same moment for what nobody has
// computed yet. One server does, the other two wait for it.
//
// The flag by which the document's script says that somebody has taken the task is
// given up by nobody: if the task fails, all wait until it expires, and whoever
// waits for half that time and finds no number fails in int(None). Here the lease
// is given back, and is renewed as long as the task runs.
func Example_oneLoadForTheFleet() {
	server, err := redistest.NewEmbedded()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	ctx := context.Background()

	everybodyCame := make(chan struct{})
	var servers [3]*cachex.Cache[string, int]
	for i := range servers {
		servers[i] = cachex.Must(cachex.New(server.Client(nil), cachex.Spec[string, int]{
			Key:      "tasks:{name}",
			TTL:      2 * time.Minute,
			LeaseTTL: time.Minute, // so that a machine that stands still runs no second task
			Up: func(context.Context, string) (int, error) {
				fmt.Println("Run hard task.")
				<-everybodyCame
				return 10, nil
			},
		}))
	}

	var served atomic.Int64
	var visitors sync.WaitGroup
	for i := range 30 {
		visitors.Go(func() {
			if n, err := servers[i%3].Get(ctx, "hard"); n == 10 && err == nil {
				served.Add(1)
			}
		})
	}
	for came := int64(0); came < 30; time.Sleep(time.Millisecond) {
		came = 0
		for _, s := range servers {
			came += s.Stats().Misses
		}
	}
	close(everybodyCame)
	visitors.Wait()
	fmt.Println(served.Load(), "visitors have the number")
	// Output:
	// Run hard task.
	// 30 visitors have the number
}

// A function is wrapped, and what is returned has its type. Each argument has a key
// of its own; several are the fields of a struct.
//
// The document's decorator has one key for a function, whatever its arguments are,
// and takes every result for an int.
func ExampleCache_Wrap() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	type Search struct {
		City string
		Page int
	}
	search := func(_ context.Context, s Search) ([]string, error) {
		fmt.Println("Search page", s.Page, "of", s.City)
		return []string{strings.ToUpper(s.City), "Gopher"}, nil
	}

	results := cachex.Must(cachex.New(rdb, cachex.Spec[Search, []string]{
		Key: "search:{city}:{page}",
		TTL: 2 * time.Minute,
	}))
	cached := results.Wrap(search) // func(context.Context, Search) ([]string, error)

	fmt.Println(cached(ctx, Search{"Berlin", 1}))
	fmt.Println(cached(ctx, Search{"Berlin", 1}))
	fmt.Println(cached(ctx, Search{"Berlin", 2}))
	// Output:
	// Search page 1 of Berlin
	// [BERLIN Gopher] <nil>
	// [BERLIN Gopher] <nil>
	// Search page 2 of Berlin
	// [BERLIN Gopher] <nil>
}
