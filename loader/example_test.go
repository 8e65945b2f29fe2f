package loader_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cachex-go/cachex/cachextest"
	"github.com/cachex-go/cachex/loader"
)

func Example() {
	ctx := context.Background()
	server, err := cachextest.Open() // or a client of your Redis
	if err != nil {
		panic(err)
	}
	defer server.Close()

	users, err := loader.New(server.Client(), loader.Options[string]{Timeout: time.Minute})
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
	server, err := cachextest.Open()
	if err != nil {
		panic(err)
	}
	defer server.Close()

	users, err := loader.New(server.Client(), loader.Options[string]{})
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
	server, err := cachextest.Open()
	if err != nil {
		panic(err)
	}
	defer server.Close()

	rdb := server.Client()
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

	name = "Ada Lovelace" // first in the database
	if err := rdb.Del(ctx, "users:42").Err(); err != nil {
		panic(err)
	}
	users.Forget("users:42") // later callers must not join an older load
	fmt.Println(users.Get(ctx, "users:42", load))
	// Output:
	// Ada <nil>
	// Ada Lovelace <nil>
}
