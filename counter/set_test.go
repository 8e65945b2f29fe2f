package counter_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/writebehind"
)

// A Down that only adds differences cannot set a count.
func TestSet_NeedsADownThatWritesValues(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		tb := newTable(map[int]int64{1: 5})
		spec := counter.Spec[int]{Key: redistest.Key(t) + ":{id}", TTL: time.Minute, Up: tb.up, Down: tb.down, FlushEvery: patience * 100}
		old, err := counter.New(rdb, spec)
		require.NoError(t, err)
		err = old.Set(t.Context(), 1, 7)
		require.ErrorContains(t, err, "set Spec.DownValues")
		require.Error(t, old.SetMany(t.Context(), map[int]int64{1: 7, 2: 7}))
		requireCount(t, old, 1, 5)

		// Another process of another release can: a count set by it waits for
		// it.
		c := newCounter(t, rdb, spec)
		require.NoError(t, c.Set(t.Context(), 1, 7))
		requireCount(t, old, 1, 7)
		var aside *writebehind.AsideError
		require.ErrorAs(t, old.Flush(t.Context()), &aside)
		require.Equal(t, writebehind.AsideError{Unread: 1}, *aside)
		_, err = old.Add(t.Context(), 2, 3) // it does not wait for that
		require.NoError(t, err)
		require.ErrorAs(t, old.Flush(t.Context()), &aside)
		require.Equal(t, int64(3), tb.get(2))
		_, err = old.Add(t.Context(), 1, 1) // nor does an addition to the set count
		require.NoError(t, err)
		require.ErrorAs(t, old.Flush(t.Context()), &aside)
		require.Equal(t, int64(6), tb.get(1))
		requireCount(t, old, 1, 8)
		require.NoError(t, old.Delete(t.Context(), 1))
		requireCount(t, old, 1, 8)
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, int64(8), tb.get(1))
		require.NoError(t, old.Close(t.Context()))
	})
	_, err := counter.New(redistest.StartEmbedded(t).Client(nil), counter.Spec[int]{Key: "k:{id}", TTL: time.Minute, DownValues: true})
	require.ErrorContains(t, err, "Spec.DownValues needs Spec.Down")
}

// The database has committed a batch and reported a failure. So the count in
// Redis and the one in the database differ.
func TestSet_PersistsTheCountAfterABatchThatWasNotAcknowledged(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		tb, lies := newTable(map[int]int64{}), true
		c := newCounter(t, rdb, counter.Spec[int]{Up: tb.up, FlushEvery: patience * 100, Down: func(ctx context.Context, f counter.Flush[int]) error {
			err := tb.down(ctx, f)
			if lies {
				return errors.New("the reply to COMMIT is lost")
			}
			return err
		}})
		_, err := c.Add(t.Context(), 1, 5)
		require.NoError(t, err)
		require.Error(t, c.Flush(t.Context()))
		require.Equal(t, int64(5), tb.get(1))
		require.NoError(t, c.Delete(t.Context(), 1))
		require.NoError(t, c.Set(t.Context(), 1, 100))
		n, err := c.Add(t.Context(), 1, -1)
		require.NoError(t, err)
		require.Equal(t, int64(99), n)
		lies = false
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, int64(99), tb.get(1))
		require.NoError(t, c.Delete(t.Context(), 1))
		requireCount(t, c, 1, 99)
	})
}

// All keys in Redis, including the count, go back to their state before a
// flush.
func TestSet_PersistsTheCountAfterRedisWentBack(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client(nil)
	ctx := t.Context()
	tb := newTable(map[int]int64{})
	c := newCounter(t, rdb, counter.Spec[int]{Up: tb.up, Down: tb.down, FlushEvery: patience * 100})
	_, err := c.Add(ctx, 1, 10)
	require.NoError(t, err)
	backup := map[string]string{}
	for _, key := range rdb.Keys(ctx, "*").Val() {
		backup[key] = rdb.Dump(ctx, key).Val()
	}
	_, err = c.Add(ctx, 1, 900)
	require.NoError(t, err)
	require.NoError(t, c.Flush(ctx))
	require.NoError(t, rdb.FlushAll(ctx).Err())
	for key, dump := range backup {
		require.NoError(t, rdb.Restore(ctx, key, 0, dump).Err())
	}
	require.NoError(t, c.Set(ctx, 1, 100))
	require.NoError(t, c.Flush(ctx))
	require.Equal(t, int64(100), tb.get(1))
}

// Several processes add, set, delete, read and flush; the database reports
// false failures to one of them. In the end the row equals the last Set plus
// the later Adds.
func TestSet_AndAddsGiveTheCountOfAModel(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		seed := rand.Uint64()
		t.Log("seed", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		tb := newTable(map[int]int64{})
		var mu sync.Mutex
		applied := map[string]bool{} // guarded by mu: the ledger
		down := func(lies func() bool) func(context.Context, counter.Flush[int]) error {
			return func(ctx context.Context, f counter.Flush[int]) error {
				mu.Lock()
				defer mu.Unlock()
				id := fmt.Sprint(f.Batch.Bucket, f.Batch.Token)
				if !applied[id] {
					applied[id] = true
					if err := tb.down(ctx, f); err != nil {
						return err
					}
				}
				if lies() {
					return errors.New("the reply to COMMIT is lost")
				}
				return nil
			}
		}
		spec := counter.Spec[int]{Key: redistest.Key(t) + ":{id}", Up: tb.up, FlushEvery: patience * 100}
		spec.Down = down(func() bool { return rand.IntN(2) == 0 })
		spec.TTL, spec.DownValues = time.Hour, true
		liar, err := counter.New(again(t, rdb), spec)
		require.NoError(t, err)
		spec.Down = down(func() bool { return false })
		honest := newCounter(t, rdb, spec)
		cs := []*counter.Counter[int]{liar, honest}
		want := map[int]int64{}
		for id := range 4 {
			requireCount(t, honest, id, 0)
		}
		for range 150 {
			c, id, n := cs[r.IntN(2)], r.IntN(3), r.Int64N(41)-20
			switch r.IntN(8) {
			case 0:
				_ = c.Flush(t.Context())
			case 1:
				// A restore would wait for an unacknowledged batch, and assume
				// that the row lacks it.
				require.NoError(t, honest.Flush(t.Context()))
				require.NoError(t, c.Delete(t.Context(), id))
				requireCount(t, c, id, want[id])
			case 2:
				requireCount(t, c, id, want[id])
			case 3, 4:
				require.NoError(t, c.Set(t.Context(), id, n))
				want[id] = n
			case 5:
				require.NoError(t, c.SetMany(t.Context(), map[int]int64{id: n, id + 1: n}))
				want[id], want[id+1] = n, n
			default:
				want[id] += n
				got, err := c.Add(t.Context(), id, n)
				require.NoError(t, err)
				require.Equal(t, want[id], got)
			}
		}
		_ = liar.Close(t.Context())
		require.NoError(t, honest.Flush(t.Context()))
		for id, n := range want {
			require.Equal(t, n, tb.get(id), id)
			require.NoError(t, honest.Delete(t.Context(), id))
			requireCount(t, honest, id, n)
		}
	})
}
