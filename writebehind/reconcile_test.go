package writebehind

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
)

// spread returns an id of each bucket.
func spread(e *Engine) []string {
	ids := make([]string, len(e.buckets))
	for i, left := 0, len(ids); left > 0; i++ {
		id := fmt.Sprint("id", i)
		if b := e.Bucket(id); ids[b] == "" {
			ids[b] = id
			left--
		}
	}
	return ids
}

// The row is missing if the ledger was lost, or if an engine without a ledger
// is given one. One call repairs all buckets, idle ones included.
func TestReconcile_GoesOnInAllBucketsWhereTheLedgerHasNoRows(t *testing.T) {
	t.Parallel()
	for _, choice := range []Choice{Apply, PutAside} {
		t.Run(fmt.Sprint("choice ", choice), func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				h := newHistory(t, rdb, func(o *Options) { o.Buckets = 8 })
				ids := spread(h.e)
				for range 2 {
					for _, id := range ids {
						h.add(id, 1)
					}
					h.flush()
				}
				h.d.lock(func() { clear(h.d.rows) })
				for _, id := range ids[:4] {
					h.add(id, 10)
				}
				fork, ok := errors.AsType[*ForkError](h.e.Flush(h.ctx))
				require.True(t, ok)
				require.ErrorContains(t, fork, "call Reconcile")

				forks, err := h.e.Reconcile(h.ctx, nil)
				require.Error(t, err)
				require.Len(t, forks, 4, "shown, and nothing changed")
				for _, f := range forks {
					require.Equal(t, ForkBehind, f.Fork)
					require.EqualValues(t, 3, f.Batch.N)
				}
				require.EqualValues(t, 2, h.d.sum(ids[0]))

				forks, err = h.e.Reconcile(h.ctx, func(ForkError) Choice { return choice })
				require.NoError(t, err)
				require.Len(t, forks, 4)
				for i, id := range ids {
					want := int64(2)
					if i < 4 && choice == Apply {
						want = 12
					}
					require.Equal(t, want, h.d.sum(id))
				}
				refused, err := h.e.Refused(h.ctx)
				require.NoError(t, err)
				if choice == PutAside {
					require.Len(t, refused, 4)
					n, err := h.e.Retry(h.ctx)
					require.NoError(t, err)
					require.Equal(t, 4, n)
				} else {
					require.Empty(t, refused)
				}
				for _, id := range ids { // idle before, or not
					h.add(id, 100)
				}
				h.flush()
				for i, id := range ids {
					want := int64(102)
					if i < 4 {
						want = 112
					}
					require.Equal(t, want, h.d.sum(id))
				}
				require.EqualValues(t, 4, h.e.Stats().Forks.Behind)
				require.Zero(t, h.e.Stats().Forks.Lost)
			})
		})
	}
}

// A restored backup of the database has rows that are behind by many batches.
func TestReconcile_GoesOnAfterTheDatabaseWentBack(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, nil)
		h.add("x", 1)
		h.flush()
		backup := h.d.row(0)
		for range 5 {
			h.add("x", 10)
			h.flush()
		}
		h.d.setRow(0, backup)
		h.d.lock(func() { h.d.sums["x"] = 1 })
		h.add("x", 100)
		require.Error(t, h.e.Flush(h.ctx))
		forks, err := h.e.Reconcile(h.ctx, func(f ForkError) Choice {
			require.EqualValues(t, 1, f.Row.N)
			require.EqualValues(t, 7, f.Batch.N)
			return Apply
		})
		require.NoError(t, err)
		require.Len(t, forks, 1)
		h.add("x", 1000)
		h.flush()
		require.EqualValues(t, 1101, h.d.sum("x"))
	})
}

// A backup of Redis is restored.
func TestReconcile_ChoosesWhatBecomesOfARedisThatWentBack(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, func(o *Options) { o.RolledBack = Hold })
		h.add("x", 1)
		before := h.keep()
		for range 3 {
			h.flush()
			h.add("x", 10)
		}
		before.restore(t, rdb)
		h.add("x", 100)
		fork, ok := errors.AsType[*ForkError](h.e.Flush(h.ctx))
		require.True(t, ok)
		require.Equal(t, ForkRolledBack, fork.Fork)
		require.EqualValues(t, 21, h.d.sum("x"))
		forks, err := h.e.Reconcile(h.ctx, func(ForkError) Choice { panic("a choice") })
		require.ErrorContains(t, err, "choose of Reconcile panicked")
		require.Len(t, forks, 1)
		_, err = h.e.Reconcile(h.ctx, func(ForkError) Choice { return PutAside })
		require.NoError(t, err)
		h.add("x", 1000)
		h.flush()
		require.EqualValues(t, 1021, h.d.sum("x"))
		refused, err := h.e.Refused(h.ctx)
		require.NoError(t, err)
		require.Len(t, refused, 1)
		require.Equal(t, "101", refused[0].Value)
	})
}

// One call also repairs idle buckets: later deltas are new, and must not be
// mistaken for persisted ones. This holds after each time that Redis went back.
func TestReconcile_GoesOnInBucketsAtRestAfterRedisWentBack(t *testing.T) {
	t.Parallel()
	for batches, kind := range map[int]Fork{1: ForkReplayed, 2: ForkRolledBack} {
		for _, choice := range []Choice{Apply, PutAside} {
			t.Run(fmt.Sprint(kind, ", choice ", choice), func(t *testing.T) {
				t.Parallel()
				redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
					h := newHistory(t, rdb, func(o *Options) { o.Buckets, o.RolledBack = 8, Hold })
					ids := spread(h.e)
					want, sums := map[string]int64{}, map[string]int64{}
					add := func(n int64) {
						for _, id := range ids {
							h.add(id, n)
							want[id] += n
						}
						h.flush()
					}
					for range 2 {
						add(1)
						h.add(ids[0], 10) // pending in the backup; the other buckets are idle
						var keys []string
						for b := range ids {
							keys = append(keys, h.e.Keys(b).Pending, h.e.Keys(b).InFlight)
						}
						backup := snapshot(t, rdb, keys...)
						h.flush()
						want[ids[0]] += 10
						for range batches {
							add(100)
						}
						backup.restore(t, rdb)
						forks, err := h.e.Reconcile(h.ctx, func(ForkError) Choice { return choice })
						require.NoError(t, err)
						require.LessOrEqual(t, len(forks), 1)
						h.d.lock(func() { sums = maps.Clone(h.d.sums) })
						for _, id := range ids[1:] {
							require.Equal(t, want[id], sums[id])
						}
						want[ids[0]] = sums[ids[0]]
						add(1000)
						h.d.lock(func() { sums = maps.Clone(h.d.sums) })
						require.Equal(t, want, sums)
					}
				})
			})
		}
	}
}

// All pending ids are put aside with the batch, by scripts that each do a part.
func TestPutAside_TakesAllThatIsPendingByParts(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, func(o *Options) { o.MaxBatch, o.RolledBack = 10, PutAside })
		h.e.atOnce = 7
		for range 3 {
			h.add("x", 1)
			h.flush()
		}
		inFlight := h.e.Keys(0).InFlight
		require.NoError(t, rdb.HSet(h.ctx, inFlight, "#n", 1, "#a", 1).Err())
		for i := range 95 {
			h.add(fmt.Sprint("id", i), 1)
		}
		requireAside(t, h.e.Flush(h.ctx), 95, 0)
		refused, err := h.e.Refused(h.ctx)
		require.NoError(t, err)
		require.Len(t, refused, 95)
		h.add("x", 1)
		h.flush()
		require.Equal(t, map[string]int64{"x": 4}, h.d.sums)
		require.Equal(t, Forks{RolledBack: 1}, h.e.Stats().Forks)
	})
}

// A process holds a batch when Redis loses it, and another process flushes
// first.
func TestForkLost_ABatchInHandIsPersistedThoughAnotherProcessFlushesFirst(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, nil)
		h.add("x", 1)
		h.flush()
		h.add("x", 10)
		inHand, goOn := make(chan struct{}), make(chan struct{})
		o := h.e.o
		o.Persist = func(ctx context.Context, b ledger.Batch) error {
			close(inHand)
			<-goOn
			return h.d.persist(ctx, b)
		}
		slow := engine(t, again(t, rdb), o)
		flushed := make(chan error, 1)
		go func() { flushed <- slow.Flush(h.ctx) }()
		<-inHand
		k := h.e.Keys(0)
		h.lose(k.Pending, k.InFlight)
		for range 3 {
			h.add("x", 100)
			h.flush()
		}
		close(goOn)
		require.NoError(t, <-flushed)
		require.EqualValues(t, 311, h.d.sum("x"))
		require.Equal(t, Forks{Lost: 1}, h.e.Stats().Forks)
	})
}

// Two servers that persist to one ledger under one name do not fork.
func TestLedger_TwoRedisServersShareOne(t *testing.T) {
	t.Parallel()
	h := newHistory(t, redistest.Shared(t).Client(nil), nil)
	other := engine(t, redistest.StartEmbedded(t).Client(nil), h.e.o)
	for range 5 {
		h.add("x", 1)
		h.flush()
		require.NoError(t, other.Add(h.ctx, "x", 10))
		require.NoError(t, other.Flush(h.ctx))
	}
	require.EqualValues(t, 55, h.d.sum("x"))
	require.Zero(t, h.e.Stats().Forks)
	require.Equal(t, Forks{Lost: 1}, other.Stats().Forks, "told once, when the second one begins")
}
