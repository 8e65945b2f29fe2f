// Command jobboard tells what cachex does, by the example of a job board: how a
// heavy task is run once, how a hundred visitors of four servers cause one load,
// how a deletion wins over a load that had read what was deleted, how nobody waits
// for what is out of date, how an outage of the database passes unseen, how a
// page of several kinds of values is one round trip, how a function is wrapped, how
// one mail is sent however often it is asked for, how lists, rankings and feeds are
// kept and read, how views are counted, restored when Redis has forgotten them and
// added to the database once, and what Stats say in the end.
//
// It runs on an embedded Redis, or on the one that REDIS_ADDR names, and on SQLite, or
// on the PostgreSQL that DATABASE_URL names: there it makes tables jobboard_…, and drops
// them. It ends with an error if anything of what it tells was not so.
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
	if _, err := s.flush(ctx); err != nil { // what is left of a run that was killed
		return err
	}
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

// A site is what the job board runs on.
type site struct {
	servers []redis.UniversalClient // each with a client of its own, as if in a process of its own
	db      *database
	ours    bool // the Redis is embedded
}

// flush makes Redis forget everything. Of a Redis that is not ours, it deletes what is
// the job board's. It returns what it did, in a word.
func (s site) flush(ctx context.Context) (how string, err error) {
	rdb := s.servers[0]
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
