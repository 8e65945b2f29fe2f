package dbtest

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

var rounds = flag.Int("rounds", 0, "how many processes are killed; 0 is 200 in continuous integration, else 20")

func init() { redistest.Register("server", serve) }

// addSeen adds to the pending sum and, in the same script, to a key that holds
// the sum of all additions. So the outcome of every increment is known.
//
//	KEYS     P, the key
//	ARGV     id, delta
var addSeen = script.New("add seen", script.Pend+`
behind_add(KEYS[1], ARGV[1], ARGV[2])
redis.call('INCRBY', KEYS[2], ARGV[2])
return 1
`)

const (
	killedIDs     = 40
	killedBuckets = 4
)

// killed returns the engine of a process that is killed. lease is how long the
// others then wait.
func killed(rdb redis.UniversalClient, db *sql.DB, name string, lease time.Duration) (*writebehind.Engine, error) {
	l, err := ledger.New(db, ledger.Options{Dialect: ledger.PostgreSQL})
	if err != nil {
		return nil, err
	}
	b := base{DB: db, l: l}
	return writebehind.New(rdb, writebehind.Options{
		Name: name, Merge: writebehind.Sum, Persist: b.persist, Buckets: killedBuckets,
		Every: 10 * time.Millisecond, LeaseTTL: lease, MaxBatch: 7, Workers: 2,
	})
}

// killedCounter returns the counter of a process that is killed. lease is how
// long the others then wait.
func killedCounter(rdb redis.UniversalClient, db *sql.DB, name string, lease time.Duration) (*counter.Counter[string], error) {
	l, err := ledger.New(db, ledger.Options{Dialect: ledger.PostgreSQL})
	if err != nil {
		return nil, err
	}
	b := base{DB: db, l: l}
	return counter.New(rdb, counter.Spec[string]{
		Key: name + ":{id}", TTL: cachex.Forever, Up: b.up, Down: b.down,
		FlushEvery: 100 * time.Millisecond, LeaseTTL: lease, WriteBehindOptions: writebehind.Options{LeaseTTL: lease},
	})
}

// Some counts are never deleted, so Redis shows the sum of all additions. The
// other counts are deleted and restored all the time. Each addition to these is
// an operation with an id, and the operations show their sum.
const (
	keptCounts    = 6
	deletedCounts = 3
)

func kept(i int) string    { return fmt.Sprint("kept", i) }
func deleted(i int) string { return fmt.Sprint("deleted", i) }

// restore makes the process restore counts until it is killed. That may take
// time if a process was killed while it restored them.
func restore(ctx context.Context, c *counter.Counter[string]) {
	for i := 0; ; i++ {
		id := deleted(rand.N(deletedCounts))
		_, err := c.AddOnce(ctx, id, 1, fmt.Sprint(os.Getpid(), "-", i))
		if err == nil && i%8 == 0 {
			err = c.Delete(ctx, id)
		}
		if err != nil {
			panic(err)
		}
		time.Sleep(time.Millisecond) // gives the others their share
	}
}

// serve is a process that adds and flushes until it is killed. It writes a line
// for every hundred acknowledged increments.
func serve() {
	rdb := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), ReadTimeout: redistest.Patience})
	db, err := sql.Open("pgx", os.Getenv("DSN"))
	if err != nil {
		panic(err)
	}
	e, err := killed(rdb, db, os.Getenv("NAME"), 60*time.Millisecond)
	if err != nil {
		panic(err)
	}
	e.Start()
	c, err := killedCounter(rdb, db, os.Getenv("NAME")+"c", 500*time.Millisecond)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	go restore(ctx, c)
	for n := 1; ; n++ {
		id := fmt.Sprint("id", rand.N(killedIDs))
		if err := addAndSee(ctx, rdb, e, id, 1+rand.N(9)); err != nil {
			panic(err)
		}
		if n%4 == 0 {
			if _, err := c.Inc(ctx, kept(rand.N(keptCounts))); err != nil {
				panic(err)
			}
		}
		if n%100 == 0 || n == 1 {
			s, b := e.Stats(), c.Stats().WriteBehind
			fmt.Println("added", n, "batches", s.Batches+b.Batches, "replays", s.Replays+b.Replays, "stale", s.Stale+b.Stale,
				"failures", s.Failures+b.Failures)
		}
	}
}

// Three processes add and flush. Now and then one of them is killed with -9, at
// any step, and another one is started. In the end the database has every
// increment. -rounds=1000 sets more rounds than the default.
func TestNothingIsLostOrAppliedTwiceByProcessesThatAreKilled(t *testing.T) {
	t.Parallel()
	db := newPostgres(t)
	server := redistest.Start(t)
	rdb := server.Client(nil)
	name := redistest.Key(t)
	start := func() *redistest.Process {
		return redistest.Child(t, "server", "REDIS="+server.Addr(), "DSN="+db.dsn, "NAME="+name)
	}
	procs := []*redistest.Process{start(), start(), start()}
	var batches, replays, stale, failures int64
	n := *rounds
	switch {
	case n > 0:
	case os.Getenv("CACHEX_REQUIRE_SERVERS") == "1":
		n = 200
	default:
		n = 20
	}
	for range n {
		i := rand.N(len(procs))
		procs[i].WaitLine("added") // it is working
		time.Sleep(rand.N(60 * time.Millisecond))
		procs[i].Kill()
		b, r, s, f := told(procs[i].Output())
		batches, replays, stale, failures = batches+b, replays+r, stale+s, failures+f
		procs[i] = start()
	}
	for _, p := range procs {
		p.Kill()
	}
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	last, err := killed(rdb, db.DB, name, patience)
	require.NoError(t, err)
	require.NoError(t, last.Flush(ctx))
	require.NoError(t, last.Close(ctx))

	var lost, doubled, added int64
	for i := range killedIDs {
		id := fmt.Sprint("id", i)
		seen, err := rdb.Get(ctx, last.Tag(id)+id).Int64()
		require.NoError(t, err)
		got := db.sum(t, id)
		added += seen
		lost += max(seen-got, 0)
		doubled += max(got-seen, 0)
	}
	counted := db.requireCounts(ctx, t, rdb, name+"c")
	t.Logf("%d processes killed; %d added, %d lost, %d doubled; at least %d batches, of them %d taken over, %d too late, %d failures; and %d counted exactly",
		n, added, lost, doubled, batches, replays, stale, failures, counted)
	require.Zero(t, lost)
	require.Zero(t, doubled)
	require.Positive(t, added)
	require.Zero(t, last.Stats().Forks)
}

// requireCounts requires that the database has the sum of all increments, and
// that restored counts equal the database. It returns that sum.
func (db *base) requireCounts(ctx context.Context, t *testing.T, rdb *redis.Client, name string) (all int64) {
	t.Helper()
	c, err := killedCounter(rdb, db.DB, name, patience)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	require.NoError(t, c.Flush(ctx))
	want := map[string]int64{}
	for i := range keptCounts {
		n, err := c.Get(ctx, kept(i))
		require.NoError(t, err)
		want[kept(i)] = n
	}
	for i := range deletedCounts {
		operations := rdb.Scan(ctx, 0, c.Key(deleted(i))+":%op:*", 10_000).Iterator()
		for seen := map[string]bool{}; operations.Next(ctx); {
			if op := operations.Val(); !seen[op] { // SCAN may return a key twice
				seen[op] = true
				want[deleted(i)]++
			}
		}
		require.NoError(t, operations.Err())
	}
	for id, n := range want {
		require.Equal(t, n, db.sum(t, id), "persisted of %s", id)
		require.NoError(t, c.Delete(ctx, id))
		restored, err := c.Get(ctx, id)
		require.NoError(t, err)
		require.Equal(t, n, restored, "restored of %s", id)
		all += n
	}
	require.Positive(t, want[kept(0)])
	require.Positive(t, want[deleted(0)])
	require.Zero(t, c.Stats().WriteBehind.Forks)
	return all
}

// told returns the last report of a process.
func told(output string) (batches, replays, stale, failures int64) {
	lines := strings.Split(output, "\n")
	for _, line := range lines[:len(lines)-1] { // the last line may be truncated
		f := strings.Fields(line)
		if len(f) != 10 || f[0] != "added" {
			continue
		}
		for i, n := range []*int64{&batches, &replays, &stale, &failures} {
			*n, _ = strconv.ParseInt(f[3+2*i], 10, 64)
		}
	}
	return batches, replays, stale, failures
}
