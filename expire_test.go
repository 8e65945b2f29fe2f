package cachex

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestExpire_ValueIsServedStaleAndReloadedOnce(t *testing.T) {
	t.Parallel()
	o := &origin{takes: 100 * time.Millisecond}
	spec := Spec[int, string]{TTL: time.Hour, StaleWhileRevalidate: 10 * time.Second}
	inCrew(t, o, spec, func(t *testing.T, c *crew) {
		require.NoError(t, look(t.Context(), c.caches[0], 1).err)
		time.Sleep(time.Minute)
		require.NoError(t, c.caches[0].Expire(t.Context(), 1))
		c.agree("v1", Stale, 0)
		c.agree("v1", Stale, 0)
		require.Equal(t, 2, o.loads())
		time.Sleep(o.takes)
		synctest.Wait()
		c.agree("v2", Hit, 0)
		require.Zero(t, c.header().Flags, "what is new is not stale")

		// StaleWhileRevalidate counts from the Expire.
		require.NoError(t, c.caches[0].Expire(t.Context(), 1))
		time.Sleep(10*time.Second - time.Millisecond)
		_, ok, err := c.caches[1].Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.True(t, ok)
		time.Sleep(time.Millisecond)
		_, ok, err = c.caches[1].Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.False(t, ok)
		require.Equal(t, view{v: "v3", how: Loaded, took: o.takes}, look(t.Context(), c.caches[1], 1))
	})
}

// A value that was stale already does not get younger.
func TestExpire_DoesNotProlongAStaleValue(t *testing.T) {
	t.Parallel()
	o := &origin{}
	spec := Spec[int, string]{TTL: time.Second, StaleWhileRevalidate: 10 * time.Second}
	inCrew(t, o, spec, func(t *testing.T, c *crew) {
		require.NoError(t, look(t.Context(), c.caches[0], 1).err)
		time.Sleep(6 * time.Second)
		require.NoError(t, c.caches[0].Expire(t.Context(), 1))
		time.Sleep(5 * time.Second)
		_, ok, err := c.caches[1].Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.False(t, ok)
	})
}

// By a clock that is five seconds late the value has not reached its end.
func TestExpire_IsSeenByAReaderWithALateClock(t *testing.T) {
	t.Parallel()
	server := redistest.StartEmbedded(t)
	server.SetTime(time.Now().Add(5 * time.Second))
	rdb := server.Client(nil)
	s := newSource(t)
	c := newCache(t, rdb, Spec[int, string]{Up: s.up, LeaseTTL: longLease, TTL: time.Hour, StaleWhileRevalidate: time.Hour})
	require.NoError(t, c.Set(t.Context(), 1, "old"))
	require.Equal(t, Hit, look(t.Context(), c, 1).how)
	require.NoError(t, c.Expire(t.Context(), 1))
	got := look(t.Context(), c, 1)
	require.Equal(t, "old", got.v)
	require.Equal(t, Stale, got.how)
	load := s.next(t)
	require.Equal(t, Stale, look(t.Context(), c, 1).how)
	load.returns("new", nil)
	eventually(t, "the reload should be stored", func() bool { return look(t.Context(), c, 1).how == Hit })
	require.Equal(t, "new", look(t.Context(), c, 1).v)
	require.Empty(t, s.calls)
}

// Whoever expires a key knows of something newer than what a load under way has
// read. It is stored all the same, stale at once.
func TestExpire_DuringALoadStoresItsResultStale(t *testing.T) {
	t.Parallel()
	for _, there := range []bool{false, true} { // a stale value, which the load replaces
		for _, other := range []bool{false, true} {
			t.Run(fmt.Sprint("value ", there, ", by another cache ", other), func(t *testing.T) {
				t.Parallel()
				spec := Spec[int, string]{TTL: time.Second, StaleWhileRevalidate: time.Minute, Jitter: NoJitter}
				inBubble(t, spec, func(t *testing.T, rdb *redis.Client, s *source, a, b *Cache[int, string]) {
					if there {
						require.NoError(t, a.Set(t.Context(), 1, "stale"))
						time.Sleep(time.Second)
					}
					first := looking(t.Context(), a, 1)
					load := s.next(t)
					by := a
					if other {
						by = b
					}
					require.NoError(t, by.Expire(t.Context(), 1))
					load.returns("loaded", nil)
					if there {
						require.Equal(t, view{v: "stale", how: Stale}, receive(t, first))
					} else {
						require.Equal(t, view{v: "loaded", how: Loaded}, receive(t, first))
					}
					synctest.Wait()
					require.Zero(t, a.Stats().Fenced)
					require.Equal(t, view{v: "loaded", how: Stale}, look(t.Context(), b, 1))
					s.next(t).returns("new", nil)
					synctest.Wait()
					require.Equal(t, view{v: "new", how: Hit}, look(t.Context(), a, 1))
				})
			})
		}
	}
}

func TestExpire_EndsABackoff(t *testing.T) {
	t.Parallel()
	for name, stale := range map[string]Spec[int, string]{
		"while the value is served at once": {StaleWhileRevalidate: time.Hour},
		"while it is kept":                  {StaleIfError: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := &origin{takes: 100 * time.Millisecond}
			spec := stale
			spec.TTL, spec.Backoff = time.Second, 10*time.Second
			inCrew(t, o, spec, func(t *testing.T, c *crew) {
				require.NoError(t, look(t.Context(), c.caches[0], 1).err)
				o.fails(errSource)
				time.Sleep(time.Second)
				require.Equal(t, "v1", look(t.Context(), c.caches[0], 1).v)
				time.Sleep(200 * time.Millisecond)
				c.agree("v1", Stale, 0)
				require.Equal(t, 2, o.loads())
				require.Equal(t, 1, c.header().Fails)

				o.fails(nil)
				require.NoError(t, c.caches[1].Expire(t.Context(), 1))
				require.Zero(t, c.header().Fails)
				require.Equal(t, entry.Stale, c.header().Flags)
				c.all()
				require.Equal(t, 3, o.loads())
				time.Sleep(200 * time.Millisecond)
				c.agree("v3", Hit, 0)
			})
		})
	}
}

// Where a value is kept for failures alone, an expired one waits for its reload
// and is served if that fails.
func TestExpire_KeepsTheValueForStaleIfError(t *testing.T) {
	t.Parallel()
	o := &origin{takes: 100 * time.Millisecond}
	inCrew(t, o, Spec[int, string]{TTL: time.Hour, StaleIfError: time.Minute}, func(t *testing.T, c *crew) {
		require.NoError(t, look(t.Context(), c.caches[0], 1).err)
		require.NoError(t, c.caches[0].Expire(t.Context(), 1))
		o.fails(errSource)
		c.agree("v1", Stale, o.takes)
		require.NoError(t, c.caches[0].Expire(t.Context(), 1))
		o.fails(nil)
		require.Equal(t, view{v: "v3", how: Loaded, took: o.takes}, look(t.Context(), c.caches[0], 1))
	})
}

// To a cache that serves nothing stale an expired value is none: not from Redis,
// nor from a load that began before.
func TestExpire_ActsLikeDeleteWithoutStaleValues(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", Up: s.up, LeaseTTL: longLease}
		a, b := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		require.NoError(t, a.Set(t.Context(), 1, "old"))
		require.NoError(t, a.Expire(t.Context(), 1, 2, 3), "a key without a value is no error")
		for _, c := range []*Cache[int, string]{a, b} {
			_, ok, err := c.Lookup(t.Context(), 1)
			require.NoError(t, err)
			require.False(t, ok)
		}
		first := asking(t.Context(), a, 1)
		load := s.next(t)
		require.NoError(t, b.Expire(t.Context(), 1))
		late := asking(t.Context(), b, 1)
		waiting(t, b, 1)
		load.returns("old", nil)
		gets(t, "old", first)
		s.next(t).returns("new", nil)
		gets(t, "new", late)
		gets(t, "new", asking(t.Context(), a, 1))
		require.Zero(t, b.Stats().StaleHits)
	})
}
