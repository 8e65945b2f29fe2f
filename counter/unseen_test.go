package counter_test

import (
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

// Reads of ids that were never counted must not fill Redis with zeros.
func TestCounter_ReadOfAnUnseenIDWithoutUpIsZeroAndStoresNothing(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{})
		_, err := c.Inc(t.Context(), 1)
		require.NoError(t, err)
		sent := new(redistest.Counter)
		rdb.AddHook(sent)
		zeros := func(n int64, err error) { require.NoError(t, err); require.Zero(t, n) }

		var how cachex.Outcome
		zeros(c.Get(cachex.WithOutcome(t.Context(), &how), 2))
		require.Equal(t, cachex.NotFound, how)
		require.Equal(t, 1, sent.RoundTrips())

		sent.Reset()
		counts, err := c.GetMany(t.Context(), []int{1, 2, 3})
		require.NoError(t, err)
		require.Equal(t, map[int]int64{1: 1, 2: 0, 3: 0}, counts)
		require.Equal(t, 1, sent.RoundTrips())

		sent.Reset()
		var b batch.Batch
		seen, unseen, many := batch.Get(&b, c, 1), batch.Get(&b, c, 2), batch.GetMany(&b, c, []int{1, 3})
		require.NoError(t, b.Run(t.Context()))
		n, err := seen.Get()
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
		zeros(unseen.Get())
		counts, err = many.Get()
		require.NoError(t, err)
		require.Equal(t, map[int]int64{1: 1, 3: 0}, counts)
		require.Equal(t, 1, sent.RoundTrips())

		require.Zero(t, c.Stats().Loads)
		require.Zero(t, rdb.Exists(t.Context(), c.Key(2), c.Key(3)).Val(), "a read has stored a count")
		_, there, err := c.Lookup(t.Context(), 2)
		require.NoError(t, err)
		require.False(t, there)
	})
}

// Without Up, only Redis knows the count. If Redis does not answer, a read must
// not return 0.
func TestCounter_ReadWithoutUpOfARedisThatIsAwayIsAnError(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{})
		away := errors.New("away")
		faults := new(redistest.Faults)
		rdb.AddHook(faults)
		faults.Add(redistest.Fault{Times: redistest.Always, Err: away})
		_, err := c.Get(t.Context(), 1)
		require.ErrorIs(t, err, away)
		_, err = c.GetMany(t.Context(), []int{1, 2})
		require.ErrorIs(t, err, away)
	})
}
