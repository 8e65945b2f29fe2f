package counter

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// together adds all deltas to counts at the same time, and returns the results.
func together(t *testing.T, c *Counter[int], op string, additions ...[2]int64) []*pendingAdd {
	t.Helper()
	all := make([]*pendingAdd, len(additions))
	for i, a := range additions {
		k := c.Key(int(a[0]))
		all[i] = &pendingAdd{addRequest: addRequest{key: k, id: untagged(k, c.kind.Engine != nil), delta: decimal(a[1])}, delta: a[1]}
		if op != "" {
			all[i].op = "{" + k + "}" + op
		}
	}
	c.sendAll(t.Context(), all)
	return all
}

func counted(t *testing.T, all []*pendingAdd) (ns []int64) {
	t.Helper()
	for _, a := range all {
		require.NoError(t, a.err)
		require.Equal(t, "A", a.status)
		ns = append(ns, a.n)
	}
	return ns
}

func eachCounter(t *testing.T, test func(t *testing.T, c *Counter[int], sent *redistest.Counter)) {
	t.Helper()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		sent := new(redistest.Counter)
		c, err := New(rdb, Spec[int]{Key: redistest.Key(t) + ":{id}", TTL: time.Minute})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, c.Close(context.WithoutCancel(t.Context()))) })
		_, err = c.Inc(t.Context(), 99) // the server learns the scripts
		require.NoError(t, err)
		_, err = c.AddOnce(t.Context(), 99, 1, "op")
		require.NoError(t, err)
		rdb.AddHook(sent)
		test(t, c, sent)
	})
}

func TestBatching_AddsToOneCountAreOneCommand(t *testing.T) {
	t.Parallel()
	eachCounter(t, func(t *testing.T, c *Counter[int], sent *redistest.Counter) {
		all := together(t, c, "", [2]int64{1, 5}, [2]int64{2, 100}, [2]int64{1, 2}, [2]int64{1, 1}, [2]int64{2, 0})
		require.Equal(t, []int64{5, 100, 7, 8, 100}, counted(t, all))
		require.Equal(t, 2, sent.Count("evalsha"))
		require.Equal(t, 1, sent.RoundTrips())
		n, err := c.Get(t.Context(), 1)
		require.NoError(t, err)
		require.EqualValues(t, 8, n)
	})
}

// With both directions in one sum, the count might overflow int64 and come back
// unnoticed.
func TestBatching_SubtractionsHaveTheirOwnSum(t *testing.T) {
	t.Parallel()
	eachCounter(t, func(t *testing.T, c *Counter[int], sent *redistest.Counter) {
		all := together(t, c, "", [2]int64{1, 5}, [2]int64{1, -2}, [2]int64{1, 4}, [2]int64{1, -3})
		require.Equal(t, []int64{5, 7, 9, 4}, counted(t, all))
		require.Equal(t, 2, sent.Count("evalsha"))
	})
}

func TestBatching_OverflowFailsOnlyTheAddsThatDoNotFit(t *testing.T) {
	t.Parallel()
	eachCounter(t, func(t *testing.T, c *Counter[int], _ *redistest.Counter) {
		_, err := c.Add(t.Context(), 1, math.MaxInt64-10)
		require.NoError(t, err)
		all := together(t, c, "", [2]int64{1, 4}, [2]int64{1, 4}, [2]int64{1, 4}, [2]int64{1, 2}, [2]int64{2, math.MaxInt64}, [2]int64{2, 1})
		require.Equal(t, []int64{math.MaxInt64 - 6, math.MaxInt64 - 2}, counted(t, all[:2]))
		require.ErrorIs(t, all[2].err, ErrOverflow)
		require.Equal(t, []int64{math.MaxInt64, math.MaxInt64}, counted(t, all[3:5]))
		require.ErrorIs(t, all[5].err, ErrOverflow)
	})
}

func TestBatching_AddOnceSharesRoundTripsButIsNotSummed(t *testing.T) {
	t.Parallel()
	eachCounter(t, func(t *testing.T, c *Counter[int], sent *redistest.Counter) {
		all := together(t, c, "the same", [2]int64{1, 5}, [2]int64{1, 5})
		require.NoError(t, all[0].err)
		require.NoError(t, all[1].err)
		require.Equal(t, []int64{5, 5}, []int64{all[0].n, all[1].n})
		require.Equal(t, []string{"A", "D"}, []string{all[0].status, all[1].status})
		require.Equal(t, 1, sent.RoundTrips())
	})
}
