// Command jobboard tells what cachex does, by the example of a job board: how a
// heavy task is run once, how a hundred visitors of four servers cause one load,
// how a deletion wins over a load that had read what was deleted, how nobody waits
// for what is out of date, how an outage of the database passes unseen, and what
// the counters say in the end.
//
// It runs on an embedded Redis, or on the one that REDIS_ADDR names. It ends
// with an error if anything of what it tells was not so.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/redistest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "jobboard:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	addr, where := os.Getenv("REDIS_ADDR"), "the Redis at REDIS_ADDR"
	if addr == "" {
		embedded, err := redistest.NewEmbedded()
		if err != nil {
			return err
		}
		defer embedded.Close()
		addr, where = embedded.Addr(), "an embedded Redis; set REDIS_ADDR for a real one"
	}
	fmt.Printf("A job board on %s.\n", where)

	// Four servers, each with a client of its own, as if in four processes.
	servers := make([]redis.UniversalClient, 4)
	for i := range servers {
		servers[i] = redis.NewClient(&redis.Options{Addr: addr})
		defer servers[i].Close()
	}
	began := time.Now()
	for _, chapter := range []func(context.Context, []redis.UniversalClient) error{
		heavyTask,
		hundredVisitors,
		deletionWins,
		staleAtOnce,
		databaseAway,
		onePage,
		whatStatsSay,
	} {
		if err := chapter(ctx, servers); err != nil {
			return err
		}
	}
	fmt.Printf("\nAll of it took %v.\n", round(time.Since(began)))
	return nil
}

// title begins a chapter.
func title(text string) { fmt.Printf("\n%s\n", text) }

// say tells what happened, and how long it took.
func say(took time.Duration, format string, args ...any) {
	fmt.Printf("  %8v  %s\n", round(took), fmt.Sprintf(format, args...))
}

// note tells something that took no time.
func note(format string, args ...any) {
	fmt.Printf("  %8s  %s\n", "", fmt.Sprintf(format, args...))
}

func round(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

// expect returns an error if the story is not true.
func expect[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s: got %v, want %v", what, got, want)
	}
	return nil
}
