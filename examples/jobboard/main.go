// Command jobboard shows the features of cachex on the example of a job board:
//
//   - a heavy task runs once;
//   - a hundred visitors of four servers cause one load;
//   - a deletion wins over a load that had read the deleted value;
//   - no reader waits for a stale value;
//   - an outage of the database goes unnoticed;
//   - a page of several kinds of values is one round trip;
//   - a function is wrapped;
//   - one mail is sent, however often it is requested;
//   - lists, rankings and feeds are kept and read;
//   - views are counted, restored when Redis has lost them, and added to the
//     database once;
//   - Stats report the counts at the end.
//
// It runs on an embedded Redis, or on the Redis that REDIS_ADDR names. It uses
// SQLite, or the PostgreSQL that DATABASE_URL names. There it creates tables
// jobboard_…, and drops them. If any of its statements turns out false, it ends
// with an error.
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/cachextest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "jobboard:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	const theirs = "the Redis at REDIS_ADDR"
	where := theirs
	client := func() *redis.Client { return redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS_ADDR")}) }
	if os.Getenv("REDIS_ADDR") == "" {
		embedded, err := cachextest.Open()
		if err != nil {
			return err
		}
		defer embedded.Close()
		client, where = embedded.Client, "an embedded Redis; set REDIS_ADDR for a real one"
	}
	db, whereRows, done, err := openDatabase(ctx)
	if err != nil {
		return fmt.Errorf("the database: %w", err)
	}
	defer done()
	fmt.Printf("A job board on %s;\nand on %s.\n", where, whereRows)

	s := site{servers: make([]redis.UniversalClient, 4), db: db, ours: where != theirs}
	for i := range s.servers {
		s.servers[i] = client()
		defer s.servers[i].Close()
	}
	if _, err := s.flush(ctx); err != nil { // the rest of a run that was killed
		return err
	}
	accounts = nil
	began := time.Now()
	for _, chapter := range []func(context.Context, site) error{
		heavyTask,
		hundredVisitors,
		deletionWins,
		staleAtOnce,
		databaseAway,
		onePage,
		onePageOfAll,
		wrapped,
		oneMail,
		lists,
		uniqueViews,
		viewsBehind,
		whatStatsSay,
	} {
		if err := chapter(ctx, s); err != nil {
			return err
		}
	}
	fmt.Printf("\nAll of it took %v.\n", round(time.Since(began)))
	return nil
}

// site holds the servers and the database of the job board.
type site struct {
	servers []redis.UniversalClient // each with its own client, as if in its own process
	db      *database
	ours    bool // the Redis is embedded
}

// flush makes Redis forget everything. If Redis is not embedded, flush deletes
// only the keys of the job board. how describes the action in a word.
func (s site) flush(ctx context.Context) (how string, err error) {
	rdb := s.servers[0]
	time.Sleep(time.Millisecond) // a bucket made anew in the same millisecond looks like the lost one
	if s.ours {
		return "FLUSHALL", rdb.FlushAll(ctx).Err()
	}
	for _, pattern := range []string{"jobboard:*", "{jobboard:*"} {
		keys := rdb.Scan(ctx, 0, pattern, 1000).Iterator()
		for keys.Next(ctx) {
			err = cmp.Or(err, rdb.Unlink(ctx, keys.Val()).Err())
		}
		err = cmp.Or(err, keys.Err())
	}
	return "all keys of the job board are deleted", err
}

// title begins a chapter.
func title(text string) { fmt.Printf("\n%s\n", text) }

// say prints an event and how long it took.
func say(took time.Duration, format string, args ...any) {
	fmt.Printf("  %8v  %s\n", round(took), fmt.Sprintf(format, args...))
}

// note prints an event that took no time.
func note(format string, args ...any) {
	fmt.Printf("  %8s  %s\n", "", fmt.Sprintf(format, args...))
}

func round(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

// expect returns an error if got differs from want.
func expect[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s: got %v, want %v", what, got, want)
	}
	return nil
}
