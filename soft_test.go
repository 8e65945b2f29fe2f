package cachex

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
)

// A load of 300 ms is too slow for readers who wait for 100 ms. All of them are
// served the stale value after exactly that, and the load goes on under its lease.
func TestSoftTimeout_ServesStaleAndStoresTheLoad(t *testing.T) {
	t.Parallel()
	o := &origin{takes: 300 * time.Millisecond}
	spec := Spec[int, string]{TTL: time.Second, StaleIfError: time.Minute, SoftTimeout: 100 * time.Millisecond}
	inCrew(t, o, spec, func(t *testing.T, c *crew) {
		require.Equal(t, view{v: "v1", how: Loaded, took: 300 * time.Millisecond}, look(t.Context(), c.caches[0], 1),
			"without a stale value a reader waits")
		time.Sleep(time.Second)
		began := time.Now()
		c.agree("v1", Stale, 100*time.Millisecond)
		leased := c.header()
		require.NotZero(t, leased.Till)
		time.Sleep(50 * time.Millisecond)
		c.agree("v1", Stale, 100*time.Millisecond, "who comes later waits as long")
		require.Equal(t, leased.Token, c.header().Token)
		require.Equal(t, 2, o.loads())

		time.Sleep(time.Until(began.Add(299 * time.Millisecond)))
		require.Equal(t, leased.Token, c.header().Token)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		stored := c.header()
		require.Equal(t, leased.Token, stored.Token, "stored under the lease that it began with")
		require.Zero(t, stored.Till)
		require.Equal(t, 300*time.Millisecond, stored.Cost)
		c.agree("v2", Hit, 0)
		require.Equal(t, 2, o.loads())
	})
}

func TestSoftTimeout_FasterLoadIsWaitedFor(t *testing.T) {
	t.Parallel()
	o := &origin{takes: 99 * time.Millisecond}
	spec := Spec[int, string]{TTL: time.Second, StaleIfError: time.Minute, SoftTimeout: 100 * time.Millisecond}
	inCrew(t, o, spec, func(t *testing.T, c *crew) {
		require.NoError(t, look(t.Context(), c.caches[0], 1).err)
		time.Sleep(time.Second)
		for _, got := range c.all() {
			require.Equal(t, "v2", got.v)
			require.Equal(t, 99*time.Millisecond, got.took)
		}
	})
}

// The value that a slow load leaves behind counts as a failure of it would: it is
// kept, and the fleet pauses.
func TestSoftTimeout_LaterFailureStartsABackoff(t *testing.T) {
	t.Parallel()
	o := &origin{takes: 300 * time.Millisecond}
	spec := Spec[int, string]{TTL: time.Second, StaleIfError: time.Minute, SoftTimeout: 100 * time.Millisecond, Backoff: 10 * time.Second}
	inCrew(t, o, spec, func(t *testing.T, c *crew) {
		require.NoError(t, look(t.Context(), c.caches[0], 1).err)
		o.fails(errSource)
		time.Sleep(time.Second)
		c.agree("v1", Stale, 100*time.Millisecond)
		time.Sleep(201 * time.Millisecond)
		c.agree("v1", Stale, 0)
		require.Equal(t, 2, o.loads())
		time.Sleep(12 * time.Second)
		c.agree("v1", Stale, 100*time.Millisecond)
		require.Equal(t, 3, o.loads())
	})
}

// A caller whose own patience is shorter leaves with the cause of that, and the
// load goes on for the others.
func TestSoftTimeout_CallerThatLeavesEarlierGetsNoStaleValue(t *testing.T) {
	t.Parallel()
	o := &origin{takes: 300 * time.Millisecond}
	spec := Spec[int, string]{TTL: time.Second, StaleIfError: time.Minute, SoftTimeout: 100 * time.Millisecond}
	inCrew(t, o, spec, func(t *testing.T, c *crew) {
		require.NoError(t, look(t.Context(), c.caches[0], 1).err)
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errSource)
		defer cancel()
		short, long := looking(ctx, c.caches[0], 1), looking(t.Context(), c.caches[0], 1)
		got := receive(t, short)
		require.ErrorIs(t, got.err, errSource)
		require.Equal(t, 50*time.Millisecond, got.took)
		require.Equal(t, view{v: "v1", how: Stale, took: 100 * time.Millisecond}, receive(t, long))
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		c.agree("v2", Hit, 0)
	})
}

// UpTimeout is a failure as any: the stale value is served, and the fleet pauses,
// whether the Up that hangs heeds its ctx or is left behind.
func TestSoftTimeout_ServesStaleIfUpHangs(t *testing.T) {
	t.Parallel()
	for _, heeds := range []bool{true, false} {
		t.Run(fmt.Sprint("heeds ", heeds), func(t *testing.T) {
			t.Parallel()
			spec := Spec[int, string]{
				TTL: time.Second, StaleIfError: time.Hour, UpTimeout: 2 * time.Second, Backoff: 10 * time.Second, Jitter: NoJitter,
			}
			inBubble(t, spec, func(t *testing.T, rdb *redis.Client, s *source, a, b *Cache[int, string]) {
				require.NoError(t, a.Set(t.Context(), 1, "stale"))
				time.Sleep(time.Second)
				here := looking(t.Context(), a, 1)
				load := s.next(t)
				time.Sleep(time.Millisecond)
				there := looking(t.Context(), b, 1)
				if heeds {
					load.does(func() (string, error) { <-load.ctx.Done(); return "", load.ctx.Err() })
				}
				require.Equal(t, view{v: "stale", how: Stale, took: 2 * time.Second}, receive(t, here))
				require.Equal(t, view{v: "stale", how: Stale, took: 1999 * time.Millisecond}, receive(t, there), "it has waited for that load")
				raw, err := rdb.Get(t.Context(), a.Key(1)).Bytes()
				require.NoError(t, err)
				h, _, ok := entry.Parse(a.Key(1), raw)
				require.True(t, ok)
				require.True(t, h.Paused())
				require.Equal(t, 1, h.Fails)
				require.Equal(t, view{v: "stale", how: Stale}, look(t.Context(), a, 1))
				require.Equal(t, view{v: "stale", how: Stale}, look(t.Context(), b, 1))
				require.Empty(t, s.calls)

				time.Sleep(12 * time.Second)
				again := looking(t.Context(), b, 1)
				s.next(t).returns("new", nil)
				require.Equal(t, view{v: "new", how: Loaded}, receive(t, again))
				if !heeds {
					load.returns("old", nil)
				}
				synctest.Wait()
				require.Equal(t, view{v: "new", how: Hit}, look(t.Context(), a, 1))
			})
		})
	}
}

// UpTimeout also ends the wait for one of MaxLoads, and for a lease. That is no
// better than a load that takes too long.
func TestSoftTimeout_ServesStaleIfTheLoadDoesNotBegin(t *testing.T) {
	t.Parallel()
	for _, many := range []bool{false, true} {
		t.Run(fmt.Sprintf("many %v", many), func(t *testing.T) {
			t.Parallel()
			o := &origin{takes: time.Millisecond}
			var begun atomic.Int64
			var hangs chan struct{}
			spec := Spec[int, string]{TTL: time.Second, StaleIfError: time.Minute, UpTimeout: 2 * time.Second, MaxLoads: 1}
			spec.Up = func(ctx context.Context, key int) (string, error) {
				begun.Add(1)
				if hangs != nil {
					// It is deaf to its ctx: a load that heeds it gives its place back
					// at the very instant that the other is tired of waiting for it.
					<-hangs
				}
				return o.up(ctx, key)
			}
			inCrew(t, o, spec, func(t *testing.T, c *crew) {
				cache := c.caches[0]
				for key := range 2 {
					require.NoError(t, look(t.Context(), cache, key).err)
				}
				time.Sleep(2 * time.Second)
				hangs = make(chan struct{})
				first := looking(t.Context(), cache, 0) // has the one place
				synctest.Wait()
				began := time.Now()
				if many {
					values, err := cache.GetMany(t.Context(), []int{1})
					require.NoError(t, err)
					require.Equal(t, map[int]string{1: "v2"}, values)
				} else {
					require.Equal(t, view{v: "v2", how: Stale, took: 2 * time.Second}, look(t.Context(), cache, 1))
				}
				require.Equal(t, 2*time.Second, time.Since(began))
				require.Equal(t, view{v: "v1", how: Stale, took: 2 * time.Second}, receive(t, first))
				require.EqualValues(t, 3, begun.Load(), "the load of key 1 has begun")
				close(hangs)
			})
		})
	}
}
