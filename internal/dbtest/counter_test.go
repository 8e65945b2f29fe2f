package dbtest

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/writebehind"
)

// up and down are the hooks of a counter, as the documents show them.
func (db *base) up(ctx context.Context, id string) (n int64, err error) {
	err = db.QueryRowContext(ctx, `SELECT n FROM views WHERE id = $1`, id).Scan(&n)
	if err == sql.ErrNoRows {
		err = cachex.ErrNotFound
	}
	return n, err
}

func (db *base) down(ctx context.Context, f counter.Flush[string]) error {
	return db.l.Once(ctx, f.Batch, func(tx *sql.Tx) error {
		for _, id := range slices.Sorted(maps.Keys(f.Deltas)) {
			_, err := tx.ExecContext(ctx, `INSERT INTO views (id, n) VALUES ($1, $2)
				ON CONFLICT (id) DO UPDATE SET n = views.n + excluded.n`, id, f.Deltas[id])
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// counter returns the counter of a separate process, which flushes only on
// demand.
func (db *base) counter(t *testing.T, shared *redis.Client, name string) *counter.Counter[string] {
	t.Helper()
	return db.counterSpec(t, shared, counter.Spec[string]{Key: name + ":{id}", Up: db.up, Down: db.down})
}

func (db *base) counterSpec(t *testing.T, shared *redis.Client, spec counter.Spec[string]) *counter.Counter[string] {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: shared.Options().Addr, ReadTimeout: redistest.Patience})
	t.Cleanup(func() { _ = rdb.Close() })
	spec.TTL, spec.FlushEvery = time.Hour, 24*time.Hour
	c, err := counter.New(rdb, spec)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = c.Close(ctx) // if its process is dead, an error
	})
	return c
}

// tally is a counter, and the expected values of its counts.
type tally struct {
	t    *testing.T
	ctx  context.Context
	db   *base
	c    *counter.Counter[string]
	want map[string]int64
}

func newTally(t *testing.T, db *base, rdb *redis.Client) *tally {
	ctx, cancel := context.WithTimeout(t.Context(), long)
	t.Cleanup(cancel)
	return &tally{t, ctx, db, db.counter(t, rdb, redistest.Key(t)), map[string]int64{}}
}

// add adds, and returns the count.
func (y *tally) add(id string, delta int64) {
	y.t.Helper()
	y.want[id] += delta
	n, err := y.c.Add(y.ctx, id, delta)
	require.NoError(y.t, err)
	require.Equal(y.t, y.want[id], n)
}

// lost records that Redis has lost the unpersisted part of id.
func (y *tally) lost(id string) { y.want[id] = y.db.sum(y.t, id) }

// right requires the expected counts in Redis, after restoring, and in the
// table.
func (y *tally) right(forks writebehind.Forks) {
	y.t.Helper()
	for id, want := range y.want {
		for _, how := range []string{"kept", "restored", "restored after a flush"} {
			n, err := y.c.Get(y.ctx, id)
			require.NoError(y.t, err, how)
			require.Equal(y.t, want, n, how)
			if how == "restored" {
				require.NoError(y.t, y.c.Flush(y.ctx))
				require.Equal(y.t, want, y.db.sum(y.t, id))
			}
			require.NoError(y.t, y.c.Delete(y.ctx, id))
		}
	}
	require.Equal(y.t, forks, y.c.Stats().WriteBehind.Forks)
}

func TestCountsOfADatabaseAreWhatWasAddedWhateverIsDoneBesides(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		const processes, workers, steps, ops = 2, 2, 60, 20
		rdb, name := redistest.Shared(t).Client(nil), redistest.Key(t)
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		seed := rand.Uint64()
		t.Log("seed", seed)
		var mu sync.Mutex
		want, done := map[string]int64{}, map[string]bool{} // guarded by mu
		var cs []*counter.Counter[string]
		var wg sync.WaitGroup
		for p := range processes {
			c := db.counter(t, rdb, name)
			cs = append(cs, c)
			for w := range workers {
				r := rand.New(rand.NewPCG(seed, uint64(p*workers+w)))
				wg.Go(func() {
					for range steps {
						id, delta, op, err := fmt.Sprint("id", r.IntN(3)), r.Int64N(21)-10, "", error(nil)
						switch r.IntN(8) {
						case 0:
							err = c.Flush(ctx)
						case 1:
							err = c.Delete(ctx, id)
						case 2:
							_, err = c.Get(ctx, id)
						case 3, 4: // one call with each id is the first
							op, id, delta = fmt.Sprint("op", r.IntN(ops)), "id0", 1000
							_, err = c.AddOnce(ctx, id, delta, op)
						default:
							op = fmt.Sprint(p, w, r.Uint64())
							_, err = c.Add(ctx, id, delta)
						}
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						if op != "" && !done[op] {
							done[op] = true
							want[id] += delta
						}
						mu.Unlock()
					}
				})
			}
		}
		wg.Wait()
		require.False(t, t.Failed())
		for _, c := range cs {
			y := &tally{t, ctx, db, c, want}
			y.right(writebehind.Forks{})
			require.Zero(t, c.Stats().WriteBehind.Refused)
		}
		require.Positive(t, cs[0].Stats().WriteBehind.Batches+cs[1].Stats().WriteBehind.Batches)
	})
}

// These cases show which parts of a count Redis may lose, and how the count
// recovers.
func TestCountsOfADatabaseWhenRedisForgets(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		server := redistest.Start(t)
		rdb := server.Client(nil)
		for name, forget := range map[string]func(){
			"FLUSHALL": func() { require.NoError(t, rdb.FlushAll(t.Context()).Err()) },
			"restart":  server.Restart,
		} {
			y := newTally(t, db, rdb)
			y.add("x", 1)
			require.NoError(t, y.c.Flush(y.ctx))
			y.add("x", 10)
			_, err := y.c.AddOnce(y.ctx, "once", 5, "op")
			require.NoError(t, err)
			forget()
			y.lost("x") // the 10
			y.add("x", 100)
			y.add("x", 1000)
			n, err := y.c.AddOnce(y.ctx, "once", 7, "op")
			require.NoError(t, err)
			require.Equal(t, int64(7), n, "nobody knows any more that it was done")
			y.right(writebehind.Forks{Lost: 1})
			require.Equal(t, int64(1101), y.db.sum(t, "x"), name)
			require.NoError(t, y.c.Close(y.ctx))
			_, err = db.ExecContext(t.Context(), `DELETE FROM views`)
			require.NoError(t, err)
		}
	})
}

// A process holds the batch, and persists it after Redis has lost it. Only a
// count that is restored meanwhile lacks it, until the next restore.
func TestABatchThatRedisForgetsWhileItIsPersistedIsNotLost(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		server := redistest.Start(t)
		rdb, name := server.Client(nil), redistest.Key(t)
		y := newTally(t, db, rdb)
		taken, goOn := make(chan struct{}), make(chan struct{})
		slow := db.counterSpec(t, rdb, counter.Spec[string]{Key: name + ":{id}", Up: db.up, Down: func(ctx context.Context, f counter.Flush[string]) error {
			select {
			case taken <- struct{}{}:
				<-goOn
			default: // no test step waits for it: it is a later one
			}
			return db.down(ctx, f)
		}})
		y.c = db.counter(t, rdb, name)
		y.add("x", 1)
		require.NoError(t, y.c.Flush(y.ctx))
		y.add("x", 10)
		flushed := make(chan error, 1)
		go func() { flushed <- slow.Flush(y.ctx) }()
		<-taken
		require.NoError(t, rdb.FlushAll(y.ctx).Err())
		n, err := y.c.Get(y.ctx, "x")
		require.NoError(t, err)
		require.Equal(t, int64(1), n)
		for range 2 { // another process flushes first
			_, err = y.c.Add(y.ctx, "x", 50)
			require.NoError(t, err)
			require.NoError(t, y.c.Flush(y.ctx))
		}
		close(goOn)
		require.NoError(t, <-flushed)
		require.NoError(t, y.c.Delete(y.ctx, "x"))
		y.want["x"] += 100
		y.add("x", 100)
		y.right(writebehind.Forks{Lost: 1})
		require.Equal(t, int64(211), db.sum(t, "x"))
		require.Equal(t, int64(1), slow.Stats().WriteBehind.Stale)
	})
}

// If the ledger is lost, or the database goes back to a backup, one call
// resumes the counter in all 64 buckets.
func TestReconcile_GoesOnInOneCall(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		y := newTally(t, db, redistest.Shared(t).Client(nil))
		add := func(delta int64) {
			for i := range 150 {
				y.add(fmt.Sprint("id", i), delta)
			}
		}
		add(1)
		require.NoError(t, y.c.Flush(y.ctx))
		backup := map[string]string{"behind": `UPDATE cachex_ledger SET n = 1`, "missing": `DELETE FROM cachex_ledger`}
		for name, query := range backup {
			for range 3 {
				add(1)
				require.NoError(t, y.c.Flush(y.ctx))
			}
			_, err := db.ExecContext(y.ctx, query)
			require.NoError(t, err)
			add(10)
			require.Error(t, y.c.Flush(y.ctx), name)
			forks, err := y.c.Reconcile(y.ctx, func(f writebehind.ForkError) writebehind.Choice {
				if f.Fork == writebehind.ForkBehind {
					return writebehind.Apply
				}
				return writebehind.Hold
			})
			require.NoError(t, err, name)
			require.Greater(t, len(forks), 50)
			require.NoError(t, y.c.Flush(y.ctx))
			for id, want := range y.want {
				require.Equal(t, want, db.sum(t, id), name)
			}
		}
	})
}

// A full Redis evicts only keys with a TTL: the count, and nothing pending.
// With another policy it may evict all keys, and reports that.
func TestCountsOfADatabaseWhenRedisEvicts(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		server := redistest.Start(t)
		rdb := server.Client(nil)
		for policy, forks := range map[string]writebehind.Forks{"volatile-lru": {}, "allkeys-lru": {Lost: 1}} {
			y := newTally(t, db, rdb)
			y.add(policy, 1)
			require.NoError(t, y.c.Flush(y.ctx))
			y.add(policy, 10)
			require.NoError(t, rdb.ConfigSet(y.ctx, "maxmemory-policy", policy).Err())
			require.NoError(t, rdb.ConfigSet(y.ctx, "maxmemory", "1").Err()) // less than an empty server uses
			require.ErrorContains(t, rdb.Set(y.ctx, "other", 1, 0).Err(), "OOM")
			require.NoError(t, rdb.ConfigSet(y.ctx, "maxmemory", "0").Err())
			require.Zero(t, rdb.Exists(y.ctx, y.c.Key(policy)).Val())
			if forks.Lost > 0 {
				y.lost(policy)
			}
			y.add(policy, 100)
			y.right(forks)
			require.Equal(t, y.want[policy], db.sum(t, policy), policy)
		}
	})
}

func TestCountsOfADatabaseWhenRedisRestartsWithAllThatItHad(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
		y := newTally(t, db, server.Client(nil))
		y.add("x", 1)
		require.NoError(t, y.c.Flush(y.ctx))
		y.add("x", 10)
		for _, delta := range []int64{5, 7} {
			n, err := y.c.AddOnce(y.ctx, "x", delta, "op")
			require.NoError(t, err)
			require.Equal(t, int64(16), n)
			server.Restart()
		}
		y.want["x"] += 5
		y.add("x", 100)
		y.right(writebehind.Forks{})
		require.Equal(t, int64(116), db.sum(t, "x"))
	})
}
