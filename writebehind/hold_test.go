package writebehind

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// A process has lost its batch to another one, and both know the token of the
// batch. The heartbeat of the first one renews nothing.
func TestHoldBatch_ProlongsTheBatchOfItsHolder(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, o := bounded(t), options(t, newDatabase(), Sum)
		was, is := engine(t, rdb, o), engine(t, rdb, o)
		require.NoError(t, was.Add(ctx, "x", 1))
		first, err := was.take(ctx, 0, true)
		require.NoError(t, err)
		require.Equal(t, taken, first.state)
		require.NoError(t, rdb.HSet(ctx, was.Keys(0).InFlight, "#till", 0).Err())
		second, err := is.take(ctx, 0, true)
		require.NoError(t, err)
		require.Equal(t, resumed, second.state)
		require.Equal(t, first.batch.Token, second.batch.Token)
		for e, want := range map[*Engine]int64{was: 0, is: 1} {
			held, err := e.call(ctx, script.HoldBatch, 0, second.n, second.batch.Token, e.me, o.LeaseTTL.Milliseconds(), "")
			require.NoError(t, err)
			require.Equal(t, want, held)
		}
		require.NoError(t, rdb.Del(ctx, was.Keys(0).InFlight).Err()) // Close would wait for the end of the lease
	})
}
