package loader_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/loader"
)

func ExampleFlights() {
	flights := loader.Flights[string]{Timeout: time.Second}
	var loads int
	var together sync.WaitGroup
	together.Add(3)
	load := func(context.Context) (string, error) {
		loads++ // by one caller at a time
		together.Wait()
		return "Ada", nil
	}

	var callers sync.WaitGroup
	for range 3 {
		callers.Go(func() {
			together.Done()
			name, err := flights.Do(context.Background(), "users:42", load)
			if err != nil || name != "Ada" {
				fmt.Println(name, err)
			}
		})
	}
	callers.Wait()
	fmt.Println("no more loads than callers:", loads <= 3)
	fmt.Println(flights.Close(context.Background()))
	_, err := flights.Do(context.Background(), "users:42", load)
	fmt.Println(err)
	// Output:
	// no more loads than callers: true
	// <nil>
	// closed
}

func ExampleFlights_Do_panic() {
	var flights loader.Flights[int]
	_, err := flights.Do(context.Background(), "answer", func(context.Context) (int, error) {
		panic("no answer")
	})
	if p, ok := errors.AsType[*loader.PanicError](err); ok {
		fmt.Println(p, len(p.Stack) > 0)
	}
	// Output:
	// load panicked: no answer true
}

func Example() {
	ctx := context.Background()
	server, err := redistest.NewEmbedded() // or the Redis that you have
	if err != nil {
		panic(err)
	}
	defer server.Close()

	users, err := loader.New(server.Client(nil), loader.Options[string]{Timeout: 5 * time.Second})
	if err != nil {
		panic(err)
	}
	load := func(context.Context) (string, loader.Life, error) {
		fmt.Println("loading")
		return "Ada", loader.Life{Fresh: time.Minute, Keep: time.Minute}, nil
	}
	for range 2 {
		fmt.Println(users.Get(ctx, "users:42", load))
	}
	if err := users.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// loading
	// Ada <nil>
	// Ada <nil>
}

func ExampleLoader_Get_notFound() {
	ctx := context.Background()
	server, err := redistest.NewEmbedded()
	if err != nil {
		panic(err)
	}
	defer server.Close()

	users, err := loader.New(server.Client(nil), loader.Options[string]{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = users.Close(ctx) }()
	_, err = users.Get(ctx, "users:43", func(context.Context) (string, loader.Life, error) {
		return "", loader.Life{}, fmt.Errorf("user 43: %w", loader.ErrNotFound)
	})
	fmt.Println(err)
	fmt.Println(errors.Is(err, loader.ErrNotFound))
	// Output:
	// user 43: not found
	// true
}

func ExampleLoader_Forget() {
	ctx := context.Background()
	server, err := redistest.NewEmbedded()
	if err != nil {
		panic(err)
	}
	defer server.Close()

	rdb := server.Client(nil)
	users, err := loader.New(rdb, loader.Options[string]{})
	if err != nil {
		panic(err)
	}
	defer func() { _ = users.Close(ctx) }()
	name := "Ada"
	load := func(context.Context) (string, loader.Life, error) {
		return name, loader.Life{Fresh: time.Hour, Keep: time.Hour}, nil
	}
	fmt.Println(users.Get(ctx, "users:42", load))

	name = "Ada Lovelace" // in the database first, then
	if err := rdb.Del(ctx, "users:42").Err(); err != nil {
		panic(err)
	}
	users.Forget("users:42") // and who comes now does not join an older load
	fmt.Println(users.Get(ctx, "users:42", load))
	// Output:
	// Ada <nil>
	// Ada Lovelace <nil>
}

// A load that a deletion overtakes is not stored.
func ExampleLeases() {
	ctx := context.Background()
	server, err := redistest.NewEmbedded()
	if err != nil {
		panic(err)
	}
	defer server.Close()

	rdb := server.Client(nil)
	leases, err := loader.NewLeases(rdb, 3*time.Second)
	if err != nil {
		panic(err)
	}
	life := loader.Life{Fresh: time.Minute, Keep: time.Hour}
	sent := time.Now()
	a, err := leases.Acquire(ctx, "users:42", nil, 0)
	fmt.Println("A:", a.Grant == loader.Granted, err)
	b, err := leases.Acquire(ctx, "users:42", nil, 0)
	fmt.Println("B has to wait:", b.Grant == loader.Held, err)

	rdb.Del(ctx, "users:42")

	verdict, err := leases.Store(ctx, "users:42", a.Token, []byte("Ada"), life, sent, time.Since(sent))
	fmt.Println("A is fenced:", verdict == loader.Fenced, err)
	b, err = leases.Acquire(ctx, "users:42", nil, 0)
	fmt.Println("B:", b.Grant == loader.Granted, err)
	verdict, err = leases.Store(ctx, "users:42", b.Token, []byte("Ada Lovelace"), life, sent, time.Since(sent))
	fmt.Println("B:", verdict == loader.Stored, err)

	found, err := leases.Acquire(ctx, "users:42", nil, 0)
	_, payload, _ := entry.Parse("users:42", found.Entry)
	fmt.Println(string(payload), found.Grant == loader.Found, err)
	// Output:
	// A: true <nil>
	// B has to wait: true <nil>
	// A is fenced: true <nil>
	// B: true <nil>
	// B: true <nil>
	// Ada Lovelace true <nil>
}

func ExampleCheckLife() {
	fmt.Println(loader.CheckLife(time.Minute))
	fmt.Println(loader.CheckLife(loader.Forever))
	fmt.Println(loader.CheckLife(time.Microsecond))
	// Output:
	// <nil>
	// <nil>
	// 1µs is too short, must be at least 1ms
}
