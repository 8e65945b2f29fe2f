package cachex

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
)

// pttl returns the TTL of what c has stored under id.
func pttl[V any](t *testing.T, rdb *redis.Client, c *Cache[int, V], id int) time.Duration {
	t.Helper()
	d, err := rdb.PTTL(t.Context(), c.Key(id)).Result()
	require.NoError(t, err)
	return d
}

// livesFor checks that store stores id for ttl, as far as it can be told when
// time passes meanwhile.
func livesFor[V any](t *testing.T, rdb *redis.Client, c *Cache[int, V], id int, ttl time.Duration, store func() error) {
	t.Helper()
	began := time.Now()
	require.NoError(t, store())
	left := pttl(t, rdb, c, id)
	passed := time.Since(began)
	if ttl < 0 { // there is none
		require.Equal(t, ttl, left)
		return
	}
	require.LessOrEqual(t, left, ttl)
	require.GreaterOrEqual(t, left, ttl-passed-time.Millisecond) // Redis counts whole ones
}

// go-redis/cache makes an hour of it.
func TestTTL_BelowASecondIsExact(t *testing.T) {
	t.Parallel()
	rdb := redistest.Shared(t).Client(nil)
	for _, ttl := range []time.Duration{250 * time.Millisecond, 999 * time.Millisecond, 1234 * time.Millisecond, 10*time.Second + time.Millisecond} {
		c := newCache(t, rdb, Spec[int, string]{TTL: ttl, Jitter: NoJitter, Up: func(context.Context, int) (string, error) { return "up", nil }})
		livesFor(t, rdb, c, 1, ttl, func() error { return c.Set(t.Context(), 1, "set") })
		livesFor(t, rdb, c, 2, ttl, func() error { _, err := c.Get(t.Context(), 2); return err })
	}
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, string]{TTL: 3 * time.Millisecond, Jitter: NoJitter})
		require.NoError(t, c.Set(t.Context(), 1, "set"))
		for passed, there := range []bool{true, true, true, false} {
			_, ok, err := c.Lookup(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, there, ok, "after %d of 3 ms", passed)
			<-time.After(time.Millisecond)
		}
	})
}

// hot's jitter is none, and its test could not see that.
func TestJitter_IsUniformOverItsShare(t *testing.T) {
	t.Parallel()
	const n, ttl, share = 2000, 1000 * time.Second, 0.4
	const least = ttl - ttl*4/10
	rdb := redistest.Shared(t).Client(nil)
	c := newCache(t, rdb, Spec[int, int]{TTL: ttl, Jitter: share})
	var quarters [4]int
	var sum time.Duration
	for id := range n {
		began := time.Now()
		require.NoError(t, c.Set(t.Context(), id, id))
		left := pttl(t, rdb, c, id)
		require.LessOrEqual(t, left, ttl)
		require.GreaterOrEqual(t, left, least-time.Since(began)-time.Millisecond)
		sum += left
		quarters[min(max(int(4*(left-least)/(ttl-least)), 0), 3)]++
	}
	// Six standard deviations, which by chance would be once in 500 million runs:
	// 400 s/√12/√2000 = 2.6 s, and √(2000·¼·¾) = 19.4.
	require.InDelta(t, (ttl+least)/2/time.Second, (sum / n).Seconds(), 15.6)
	for _, q := range quarters {
		require.InDelta(t, n/4, q, 117, "%v", quarters)
	}
}

func TestJitter_LeavesAtLeastOneMillisecond(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for _, ttl := range []time.Duration{time.Millisecond, 2 * time.Millisecond} {
			c := newCache(t, rdb, Spec[int, int]{TTL: ttl, Jitter: 1})
			for id := range 100 { // rockscache's would be negative, and Redis refuses 0
				require.NoError(t, c.Set(t.Context(), id, id))
			}
		}
	})
}

func TestForever_LastsUntilDelete(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, string]{TTL: Forever, Up: func(context.Context, int) (string, error) { return "up", nil }})
		require.NoError(t, c.Set(t.Context(), 1, "set"))
		_, err := c.Get(t.Context(), 2)
		require.NoError(t, err)
		for id := 1; id <= 2; id++ {
			require.EqualValues(t, -1, pttl(t, rdb, c, id), "the PTTL of a key that has none")
			require.NoError(t, c.Delete(t.Context(), id))
			require.EqualValues(t, -2, pttl(t, rdb, c, id), "the PTTL of no key")
		}
	})
}

func TestTTLFor_SetsTheTTLOfOneValue(t *testing.T) {
	t.Parallel()
	rdb := redistest.Shared(t).Client(nil)
	spec := Spec[int, time.Duration]{
		TTL: time.Minute, Jitter: NoJitter,
		TTLFor: func(_ int, v time.Duration) time.Duration { return v },
	}
	for returned, want := range map[time.Duration]time.Duration{
		0: time.Minute, 700 * time.Millisecond: 700 * time.Millisecond, 48 * time.Hour: 48 * time.Hour, Forever: -1,
	} {
		spec.Up = func(context.Context, int) (time.Duration, error) { return returned, nil }
		c := newCache(t, rdb, spec)
		livesFor(t, rdb, c, 1, want, func() error { return c.Set(t.Context(), 1, returned) })
		livesFor(t, rdb, c, 2, want, func() error { _, err := c.Get(t.Context(), 2); return err })
	}
	spec.Jitter = 0.5
	c := newCache(t, rdb, spec)
	shorter := 0
	for id := range 50 {
		require.NoError(t, c.Set(t.Context(), id, 48*time.Hour))
		if left := pttl(t, rdb, c, id); left < 47*time.Hour {
			shorter++
			require.Greater(t, left, 23*time.Hour)
		}
	}
	require.Positive(t, shorter, "Jitter applies")
}

// A PERSIST by somebody else must not make a value live for ever.
func TestTTL_EntryThatLostItsTTLIsLoadedAgain(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, string]{Up: func(context.Context, int) (string, error) { return "new", nil }})
		payload := []byte("old")
		h := entry.Header{
			State: entry.Value,
			Soft:  time.Now().Add(-time.Hour).UnixMilli(),
			Token: entry.NewToken(),
			Sum:   entry.Sum(c.Key(1), payload),
		}
		require.NoError(t, rdb.Set(t.Context(), c.Key(1), append(h.Append(nil), payload...), 0).Err())

		v, err := c.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "new", v)
		require.Positive(t, pttl(t, rdb, c, 1), "what is stored has a TTL again")
	})
}
