package cachex_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cachex-go/cachex"
)

// While the database is away, visitors see what was there before. One of them at a
// time tries to reach it, and that less and less often.
func Example_staleIfError() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	away, probes := false, 0
	prices := cachex.Must(cachex.New(rdb, cachex.Spec[string, string]{
		Key:          "prices:{product}",
		TTL:          time.Minute,
		StaleIfError: time.Hour,
		Backoff:      time.Minute, // of the whole fleet, between two tries
		Up: func(context.Context, string) (string, error) {
			if away {
				probes++
				return "", errors.New("database away")
			}
			return "9.99", nil
		},
	}))
	fmt.Println(prices.Get(ctx, "lamp"))

	away = true
	_ = prices.Expire(ctx, "lamp") // in place of waiting for a minute
	right := 0
	for range 100 {
		if price, err := prices.Get(ctx, "lamp"); price == "9.99" && err == nil {
			right++
		}
	}
	fmt.Println(right, "visitors saw the price; tries:", probes)

	_, err := prices.Get(ctx, "chair") // nobody has ever asked for it
	fmt.Println(err)
	// Output:
	// 9.99 <nil>
	// 100 visitors saw the price; tries: 1
	// cachex: get prices:chair: database away
}

// What has not changed is neither fetched nor sent to Redis a second time.
func ExamplePrevious() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	type Page struct{ ETag, Body string }
	origin := Page{ETag: "v1", Body: "Hello!"}
	pages := cachex.Must(cachex.New(rdb, cachex.Spec[string, Page]{
		Key:          "pages:{path}",
		TTL:          time.Minute,
		StaleIfError: time.Hour, // keeps the value that Previous returns
		Up: func(ctx context.Context, path string) (Page, error) {
			old, ok := cachex.Previous[Page](ctx)
			if ok && old.ETag == origin.ETag { // If-None-Match, in HTTP
				fmt.Println("304 Not Modified")
				return old, cachex.ErrNotModified
			}
			fmt.Println("200 OK")
			return origin, nil
		},
	}))
	fmt.Println(pages.Get(ctx, "/"))
	_ = pages.Expire(ctx, "/") // in place of waiting for a minute
	fmt.Println(pages.Get(ctx, "/"))
	origin = Page{ETag: "v2", Body: "Goodbye!"}
	_ = pages.Expire(ctx, "/")
	fmt.Println(pages.Get(ctx, "/"))
	// Output:
	// 200 OK
	// {v1 Hello!} <nil>
	// 304 Not Modified
	// {v1 Hello!} <nil>
	// 200 OK
	// {v2 Goodbye!} <nil>
}

// A call tells how it came by its value.
func ExampleWithOutcome() {
	rdb, done := exampleRedis()
	defer done()

	squares := cachex.Must(cachex.New(rdb, cachex.Spec[int, int]{
		Key:         "squares:{n}",
		TTL:         time.Minute,
		NotFoundTTL: time.Minute,
		Up: func(_ context.Context, n int) (int, error) {
			if n < 0 {
				return 0, cachex.ErrNotFound
			}
			return n * n, nil
		},
	}))
	var how cachex.Outcome
	ctx := cachex.WithOutcome(context.Background(), &how)
	for _, n := range []int{12, 12, -1, -1} {
		_, err := squares.Get(ctx, n)
		fmt.Println(how, errors.Is(err, cachex.ErrNotFound))
	}
	// Output:
	// loaded false
	// hit false
	// loaded true
	// not found true
}

// Expire is for what has changed somewhere else, where the old value may be shown a
// moment longer, or must be kept in case that the source fails.
func ExampleCache_Expire() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	rate := "1.08"
	rates := cachex.Must(cachex.New(rdb, cachex.Spec[string, string]{
		Key:          "rates:{currency}",
		TTL:          time.Hour,
		StaleIfError: 24 * time.Hour,
		Up: func(context.Context, string) (string, error) {
			if rate == "" {
				return "", errors.New("the bank is closed")
			}
			return rate, nil
		},
	}))
	fmt.Println(rates.Get(ctx, "USD"))

	rate = "1.09"
	fmt.Println(rates.Expire(ctx, "USD"))
	fmt.Println(rates.Get(ctx, "USD"))

	rate = ""
	fmt.Println(rates.Expire(ctx, "USD"))
	fmt.Println(rates.Get(ctx, "USD")) // Delete would have left an error
	// Output:
	// 1.08 <nil>
	// <nil>
	// 1.09 <nil>
	// <nil>
	// 1.09 <nil>
}

// Refresh loads now, whatever is in Redis, and tells the caller what came of it.
func ExampleCache_Refresh() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	version := 1
	settings := cachex.Must(cachex.New(rdb, cachex.Spec[struct{}, string]{
		Key: "settings",
		TTL: cachex.Forever,
		Up: func(context.Context, struct{}) (string, error) {
			if version > 2 {
				return "", errors.New("settings are broken")
			}
			return fmt.Sprint("version ", version), nil
		},
	}))
	fmt.Println(settings.Get(ctx, struct{}{}))
	version = 2
	fmt.Println(settings.Get(ctx, struct{}{}))
	fmt.Println(settings.Refresh(ctx, struct{}{}))
	version = 3
	_, err := settings.Refresh(ctx, struct{}{})
	fmt.Println(err)
	fmt.Println(settings.Get(ctx, struct{}{}))
	// Output:
	// version 1 <nil>
	// version 1 <nil>
	// version 2 <nil>
	// cachex: refresh settings: settings are broken
	// version 2 <nil>
}
