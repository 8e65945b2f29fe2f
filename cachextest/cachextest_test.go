package cachextest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/cachextest"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

func TestRedisIsEmptyAndTheTestsOwn(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	mine, other := cachextest.Redis(t), cachextest.Redis(t)
	require.NoError(t, mine.Set(ctx, "a", "mine", 0).Err())
	require.Equal(t, "mine", mine.Get(ctx, "a").Val())
	require.ErrorIs(t, other.Get(ctx, "a").Err(), redis.Nil)
}

func TestRedisExpiresKeysInRealTime(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	rdb := cachextest.Redis(t)
	require.NoError(t, rdb.Set(ctx, "a", "v", 20*time.Millisecond).Err())
	require.Eventually(t, func() bool { return rdb.Get(ctx, "a").Err() == redis.Nil }, patience, time.Millisecond)
}

func TestRedisRunsScripts(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	rdb := cachextest.Redis(t)
	script := redis.NewScript(`return redis.call('SET', KEYS[1], ARGV[1], 'NX')`)
	require.NoError(t, script.Run(ctx, rdb, []string{"a"}, "1").Err())
	require.ErrorIs(t, script.Run(ctx, rdb, []string{"a"}, "2").Err(), redis.Nil)
}

func TestRedisIsClosedWithItsTest(t *testing.T) {
	t.Parallel()
	var rdb redis.UniversalClient
	t.Run("", func(t *testing.T) {
		rdb = cachextest.Redis(t)
		require.NoError(t, rdb.Ping(t.Context()).Err())
	})
	require.ErrorIs(t, rdb.Ping(t.Context()).Err(), redis.ErrClosed)
}

// In a bubble, an hour of TTLs, leases and stale windows takes no time.
func TestRedis_WorksInABubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, loads := t.Context(), 0
		c, err := cachex.New(cachextest.Redis(t), cachex.Spec[int, int]{
			Key: "n:{id}", TTL: time.Hour, Jitter: cachex.NoJitter,
			Up: func(context.Context, int) (int, error) { loads++; return loads, nil },
		})
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close(ctx)) }()
		for _, want := range []int{1, 1, 2} {
			n, err := c.Get(ctx, 1)
			require.NoError(t, err)
			require.Equal(t, want, n)
			time.Sleep(31 * time.Minute)
		}
	})
}
