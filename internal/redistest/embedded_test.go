package redistest

import (
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

func TestKeysExpireAsTimePassesAndNotBefore(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, key := t.Context(), Key(t)
		const ttl = 40 * time.Millisecond
		start := rdb.Time(ctx).Val()
		require.NoError(t, rdb.Set(ctx, key, "v", ttl).Err())
		require.Eventually(t, func() bool { return rdb.Get(ctx, key).Err() == redis.Nil }, Patience, time.Millisecond)
		// Both servers count in whole milliseconds. The test reads the server's
		// clock. The clock of an embedded server ticks, and the key may be
		// older by as much.
		require.GreaterOrEqual(t, rdb.Time(ctx).Val().Sub(start), ttl-2*time.Millisecond)
	})
}

// endOfKey returns, in milliseconds, the two moments of the server's time
// between which its key expires, as one script sees them.
var endOfKey = redis.NewScript(`
	local function now()
		local t = redis.call('TIME')
		return t[1] * 1000 + math.floor(t[2] / 1000)
	end
	local before, ttl, after = now(), redis.call('PTTL', KEYS[1]), now()
	return {before, before + ttl, after + ttl}`)

func TestTimeInEmbeddedScriptsAgreesWithTTLsAndWithTheClock(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	rdb := StartEmbedded(t).Client(nil)
	require.NoError(t, rdb.Set(ctx, "a", "v", time.Minute).Err())
	earliest, latest := int64(0), int64(math.MaxInt64)
	for start := time.Now(); time.Since(start) < 50*time.Millisecond; {
		before := time.Now().UnixMilli()
		got, err := endOfKey.Run(ctx, rdb, []string{"a"}).Int64Slice()
		require.NoError(t, err)
		// A second, because one of the two clocks may be set or slewed.
		require.GreaterOrEqual(t, got[0], before-1000, "the clock of the server is not the real one")
		require.LessOrEqual(t, got[0], time.Now().UnixMilli())
		earliest, latest = max(earliest, got[1]), min(latest, got[2])
	}
	require.LessOrEqual(t, earliest-1, latest, "the moment at which the key expires is not the same all the time")
}

func TestSetTimeStopsTheClockAndAgesKeys(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	e := StartEmbedded(t)
	rdb := e.Client(nil)
	base := time.Now().Truncate(time.Millisecond).Add(time.Hour)
	e.SetTime(base)
	require.NoError(t, rdb.Set(ctx, "a", "v", 10*time.Second).Err())
	e.SetTime(base.Add(9 * time.Second))
	require.Equal(t, time.Second, rdb.PTTL(ctx, "a").Val())
	now, err := rdb.Time(ctx).Result()
	require.NoError(t, err)
	require.True(t, now.Equal(base.Add(9*time.Second)), now)
	e.SetTime(base.Add(10 * time.Second))
	require.ErrorIs(t, rdb.Get(ctx, "a").Err(), redis.Nil)
}

func TestCloseClosesClientsAndMayBeCalledTwice(t *testing.T) {
	t.Parallel()
	e, err := NewEmbedded()
	require.NoError(t, err)
	named := e.Client(func(o *redis.Options) { o.ClientName = "named" })
	require.NoError(t, named.Ping(t.Context()).Err())
	require.Equal(t, "named", named.Options().ClientName)
	e.Close()
	require.ErrorIs(t, named.Ping(t.Context()).Err(), redis.ErrClosed)
	e.Close()
}

// BenchmarkEmbeddedGet measures the cost of visiting all keys for every
// command.
func BenchmarkEmbeddedGet(b *testing.B) {
	for _, keys := range []int{1, 100, 1000, 10000} {
		b.Run(strconv.Itoa(keys), func(b *testing.B) {
			rdb := StartEmbedded(b).Client(nil)
			pipe := rdb.Pipeline()
			for i := range keys {
				pipe.Set(b.Context(), strconv.Itoa(i), "v", time.Hour)
			}
			_, err := pipe.Exec(b.Context())
			require.NoError(b, err)
			for b.Loop() {
				rdb.Get(b.Context(), "0")
			}
		})
	}
}
