package writebehind

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
)

var errStopped = errors.New("the process has stopped")

// stopped makes e take the batch in flight, or the next one, and stop while it
// holds it.
func stopped(t *testing.T, e *Engine) *take {
	t.Helper()
	tk, err := e.take(t.Context(), 0, true)
	require.NoError(t, err)
	require.Contains(t, []string{taken, resumed}, tk.state)
	require.Error(t, e.fail(t.Context(), 0, tk, errStopped))
	return tk
}

// readsOnly is an Options.Check of a release that can read only ids with a
// prefix.
func readsOnly(prefix string) func(string, []byte) error {
	return func(id string, _ []byte) error {
		if !strings.HasPrefix(id, prefix) {
			return errors.New("of another release")
		}
		return nil
	}
}

// One process has taken a batch and may have persisted it. The parked batch
// delays nothing, and does not hinder a batch that is parked later.
func TestUnread_WhatIsParkedDoesNotGather(t *testing.T) {
	t.Parallel()
	for _, merge := range []Merge{Sum, Last} {
		redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
			d := newDatabase()
			o := options(t, d, merge)
			old := engine(t, rdb, o)
			o.Check = readsOnly("new")
			e := engine(t, rdb, o)
			write := func(i int) {
				id := fmt.Sprint("old", i)
				if merge == Sum {
					require.NoError(t, old.Add(t.Context(), id, 1))
				} else {
					require.NoError(t, old.Put(t.Context(), id, []byte("1")))
				}
			}
			write(0)
			stopped(t, old)
			requireAside(t, e.Flush(t.Context()), 0, 1)
			parked := rdb.HLen(t.Context(), e.Keys(0).Parked).Val()
			require.NotZero(t, parked)
			for i := range 10 {
				write(1 + i)
				requireAside(t, e.Flush(t.Context()), 0, int64(2+i))
			}
			require.LessOrEqual(t, rdb.HLen(t.Context(), e.Keys(0).Parked).Val(), parked)
			require.NoError(t, old.Flush(t.Context()))
			for i := range 11 {
				if merge == Sum {
					require.EqualValues(t, 1, d.sum(fmt.Sprint("old", i)))
				} else {
					require.Equal(t, "1", d.value(fmt.Sprint("old", i)))
				}
			}
		})
	}
}

// A process that persists one id at a time finds a batch of several, which
// another process has taken and perhaps persisted. It persists all of them,
// although the bucket gets no further write.
func TestUnread_OneIDAtATimeOfABatchOfSeveral(t *testing.T) {
	t.Parallel()
	for _, applied := range []bool{false, true} {
		redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
			d := newDatabase()
			o := options(t, d, Last)
			many := engine(t, rdb, o)
			o.MaxBatch = 1
			o.Check = readsOnly("x")
			one := engine(t, rdb, o)
			for _, id := range []string{"x1", "x2", "y", "x3"} {
				require.NoError(t, many.Put(t.Context(), id, []byte("1")))
			}
			tk := stopped(t, many)
			if applied {
				require.NoError(t, d.persist(t.Context(), tk.batch))
			}
			requireAsideOf(t, one.Flush(t.Context()), map[bool]int64{false: 1, true: 0}[applied])
			for _, id := range []string{"x1", "x2", "x3"} {
				require.Equal(t, "1", d.value(id))
			}
			require.NoError(t, many.Put(t.Context(), "x2", []byte("2")))
			requireAsideOf(t, one.Flush(t.Context()), map[bool]int64{false: 1, true: 0}[applied])
			require.Equal(t, "2", d.value("x2"))
			require.NoError(t, many.Flush(t.Context()))
			require.Equal(t, "1", d.value("y"))
			require.Equal(t, "2", d.value("x2"))
		})
	}
}

// requireAsideOf is requireAside, but requires a nil error if nothing is
// unread.
func requireAsideOf(t *testing.T, err error, unread int64) {
	t.Helper()
	if unread == 0 {
		require.NoError(t, err)
		return
	}
	requireAside(t, err, 0, unread)
}

// A process can read some ids of a parked batch. They do not wait for a newer
// batch of the same ids that it cannot read.
func TestUnread_AParkedBatchWaitsForNoOther(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		o := options(t, d, Sum)
		all := engine(t, rdb, o)
		o.Check = readsOnly("x")
		reads := engine(t, rdb, o)
		o.Check = readsOnly("nothing")
		other := engine(t, rdb, o)
		for _, ids := range [][]string{{"x", "y"}, {"y"}} {
			for _, id := range ids {
				require.NoError(t, all.Add(t.Context(), id, 1))
			}
			stopped(t, all)
			requireAside(t, other.Flush(t.Context()), 0, 2)
		}
		requireAside(t, reads.Flush(t.Context()), 0, 1)
		require.EqualValues(t, 1, d.sum("x"))
		require.NoError(t, all.Flush(t.Context()))
		require.EqualValues(t, 2, d.sum("y"))
		require.EqualValues(t, 1, d.sum("x"))
	})
}

// A delta that no process can read stays behind the total that it builds on.
func TestUnread_ADeltaFollowsTheTotalThatItCountsOn(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		o := options(t, d, Sum)
		all := engine(t, rdb, o)
		o.Check = readsOnly("nothing")
		other := engine(t, rdb, o)
		require.NoError(t, all.write(t.Context(), "set", Sum, pendSet, "x", 5))
		stopped(t, all)
		requireAside(t, other.Flush(t.Context()), 0, 1)
		require.NoError(t, all.Add(t.Context(), "x", 1))
		requireAside(t, other.Flush(t.Context()), 0, 1)
		require.NoError(t, all.Add(t.Context(), "y", 1))
		require.NoError(t, all.Flush(t.Context()))
		require.EqualValues(t, 6, d.sum("x"))
	})
}

// The database has applied a parked batch. When Reconcile gives a bucket a new
// incarnation, it does not mistake the batch for a new one.
func TestReconcile_LeavesABucketWithAParkedBatchAlone(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		o := options(t, d, Sum)
		o.Buckets = 2
		all := engine(t, rdb, o)
		at := func(bucket int) string {
			for i := 0; ; i++ {
				if id := fmt.Sprint("x", i); all.Bucket(id) == bucket {
					return id
				}
			}
		}
		o.Check = readsOnly("nothing")
		other := engine(t, rdb, o)
		require.NoError(t, all.Add(t.Context(), at(0), 1))
		require.NoError(t, all.Add(t.Context(), at(1), 1))
		require.NoError(t, all.Flush(t.Context()))

		// The first bucket has a parked batch that was persisted.
		require.NoError(t, all.Add(t.Context(), at(0), 10))
		tk := stopped(t, all)
		require.NoError(t, d.persist(t.Context(), tk.batch))
		requireAside(t, other.Flush(t.Context()), 0, 1)

		// The second bucket has forked.
		d.setRow(1, ledger.Row{})
		require.NoError(t, all.Add(t.Context(), at(1), 100))
		o.Check = readsOnly(at(1))
		forked := engine(t, rdb, o)
		forks, _ := forked.Reconcile(t.Context(), func(ForkError) Choice { return Apply })
		require.Len(t, forks, 1)
		require.NoError(t, all.Flush(t.Context()))
		require.EqualValues(t, 11, d.sum(at(0)))
		require.EqualValues(t, 101, d.sum(at(1)))
	})
}
