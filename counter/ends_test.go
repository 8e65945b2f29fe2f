package counter_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

// Redis is still executing batched additions after their callers have left.
func TestCounterClose_WaitsForAbandonedAdds(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{TTL: time.Hour})
		requireInc(t, c) // the server learns the script
		var asked atomic.Int64
		pass := make(chan struct{})
		rdb.AddHook(&redistest.Gate{Before: func(context.Context, redis.Cmder) {
			asked.Add(1)
			<-pass
		}})
		ctx, cancel := context.WithCancel(t.Context())
		const callers = 20
		var unknown atomic.Int64
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				switch _, err := c.Inc(ctx, 1); {
				case errors.Is(err, counter.ErrOutcomeUnknown):
					unknown.Add(1)
				case err != nil:
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		alone := asked.Load()
		require.Less(t, alone, int64(callers), "nobody waits to leave together")
		for range alone {
			pass <- struct{}{}
		}
		synctest.Wait()
		require.Greater(t, asked.Load(), alone)
		cancel()
		wg.Wait()
		require.Positive(t, unknown.Load())

		closed := make(chan error, 1)
		go func() { closed <- c.Close(context.Background()) }() // ends with pass
		synctest.Wait()
		require.Empty(t, closed, "Close has not waited")
		close(pass)
		require.NoError(t, <-closed)
		requireCount(t, newCounter(t, rdb, counter.Spec[int]{Key: template(c), TTL: time.Hour}), 1, callers+1)
	})
}

func requireInc(t *testing.T, c *counter.Counter[int]) {
	t.Helper()
	_, err := c.Inc(t.Context(), 1)
	require.NoError(t, err)
}
