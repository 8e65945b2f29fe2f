package cachex

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// inShops is inBubble for caches with an UpMany.
func inShops(t *testing.T, spec Spec[int, string], f func(t *testing.T, rdb *redis.Client, s *shop, a, b *Cache[int, string])) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		spec.Key, spec.UpMany = "k:{id}", s.upMany
		a, b := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		f(t, rdb, s, a, b)
		require.NoError(t, a.Close(t.Context()))
		require.NoError(t, b.Close(t.Context()))
		require.Empty(t, s.calls)
	})
}

func TestGetMany_OverlappingCallsLoadEachKeyOnce(t *testing.T) {
	t.Parallel()
	inShops(t, Spec[int, string]{LeaseTTL: longLease}, func(t *testing.T, _ *redis.Client, s *shop, a, b *Cache[int, string]) {
		first := askingMany(t.Context(), a, 1, 2, 3)
		load123 := s.next(t, 1, 2, 3)
		second := askingMany(t.Context(), a, 2, 3, 4)
		load4 := s.next(t, 4)
		one := asking(t.Context(), a, 3)
		third := askingMany(t.Context(), b, 3, 4, 5)
		load5 := s.next(t, 5)
		fourth := askingMany(t.Context(), b, 5, 1)
		elsewhere := asking(t.Context(), b, 1)
		synctest.Wait()
		require.Empty(t, s.calls)

		// Each returns when it has all of its own, and does not wait for the others.
		load123.delivers("up")
		getsMany(t, goods("up", 1, 2, 3), first)
		gets(t, "up3", one)
		gets(t, "up1", elsewhere)
		synctest.Wait()
		require.Empty(t, second)
		require.Empty(t, third)
		load4.delivers("up")
		getsMany(t, goods("up", 2, 3, 4), second)
		synctest.Wait()
		require.Empty(t, third)
		load5.delivers("up")
		getsMany(t, goods("up", 3, 4, 5), third)
		getsMany(t, goods("up", 1, 5), fourth)
		getsMany(t, goods("up", 1, 2, 3, 4, 5), askingMany(t.Context(), b, 1, 2, 3, 4, 5))
		require.EqualValues(t, 2, a.Stats().Loads)
		require.EqualValues(t, 1, b.Stats().Loads)
	})
}

// The same on a real server, with what can be known there.
func TestGetMany_TwoProcessesLoadEachKeyOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", UpMany: s.upMany, LeaseTTL: longLease}
		a, b := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		var how Outcome
		first := askingMany(t.Context(), a, numbers(0, 20)...)
		here := s.next(t, numbers(0, 20)...)
		second := askingMany(WithOutcome(t.Context(), &how), b, numbers(10, 20)...)
		there := s.next(t, numbers(20, 10)...)
		waiting(t, b, 10)
		there.delivers("up")
		eventually(t, "what was loaded should be there before the rest is", func() bool {
			values, err := a.LookupMany(t.Context(), numbers(20, 10))
			return err == nil && len(values) == 10
		})
		require.Empty(t, second)
		here.delivers("up")
		getsMany(t, goods("up", numbers(0, 20)...), first)
		getsMany(t, goods("up", numbers(10, 20)...), second)
		require.Equal(t, Loaded, how)
		requireFree(t, rdb, a, numbers(0, 30)...)
		require.Empty(t, s.calls)
	})
}

func TestGetMany_EachCallerLeavesOnItsOwnCtx(t *testing.T) {
	t.Parallel()
	inShops(t, Spec[int, string]{LeaseTTL: longLease}, func(t *testing.T, _ *redis.Client, s *shop, a, b *Cache[int, string]) {
		ctx, cancel := context.WithCancelCause(t.Context())
		first := askingMany(ctx, a, 1, 2, 3)
		load := s.next(t, 1, 2, 3)
		second, one := askingMany(t.Context(), a, 2, 4), asking(t.Context(), a, 3)
		load4 := s.next(t, 4)
		elsewhere := askingMany(t.Context(), b, 1, 2)
		synctest.Wait()
		cancel(errSource)
		got := receive(t, first)
		require.ErrorIs(t, got.err, errSource)
		require.Empty(t, got.values)
		synctest.Wait()
		require.NoError(t, load.ctx.Err(), "others wait for some of it")

		// Nobody waits for key 1 any more: who comes now finds the lease.
		late := asking(t.Context(), a, 1)
		synctest.Wait()
		require.Empty(t, s.calls)
		load.delivers("up")
		gets(t, "up3", one)
		gets(t, "up1", late)
		getsMany(t, goods("up", 1, 2), elsewhere)
		require.NoError(t, load4.ctx.Err())
		load4.delivers("up")
		getsMany(t, goods("up", 2, 4), second)
	})
}

func TestGetMany_LeavingCallerGetsTheValuesReadSoFar(t *testing.T) {
	t.Parallel()
	inShops(t, Spec[int, string]{LeaseTTL: longLease}, func(t *testing.T, _ *redis.Client, s *shop, a, _ *Cache[int, string]) {
		require.NoError(t, a.SetMany(t.Context(), goods("set", 1, 2, 3)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ch := askingMany(ctx, a, 1, 2, 3, 4)
		load := s.next(t, 4)
		got := receive(t, ch)
		require.ErrorIs(t, got.err, context.DeadlineExceeded)
		require.Equal(t, goods("set", 1, 2, 3), got.values)
		require.Equal(t, a.Key(4), got.err.(*Error).Key)
		receive(t, load.ctx.Done())
		load.delivers("late")
	})
}

func TestGetMany_LoadWithoutCallersIsCancelledAndReleasesLeases(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", UpMany: s.upMany, LeaseTTL: longLease}
		a, b := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		ctx, cancel := context.WithCancel(t.Context())
		first := askingMany(ctx, a, 1, 2, 3)
		load := s.next(t, 1, 2, 3)
		second := asking(ctx, a, 2)
		joined(t, a, 1)
		cancel()
		require.ErrorIs(t, receive(t, first).err, context.Canceled)
		require.ErrorIs(t, receive(t, second).err, context.Canceled)
		receive(t, load.ctx.Done())
		eventually(t, "the leases should be free", func() bool {
			return rdb.Exists(t.Context(), a.Key(1), a.Key(2), a.Key(3)).Val() == 0
		})
		next := askingMany(t.Context(), b, 1, 2, 3)
		s.next(t, 1, 2, 3).delivers("new")
		getsMany(t, goods("new", 1, 2, 3), next)
		load.delivers("old")
		getsMany(t, goods("new", 1, 2, 3), askingMany(t.Context(), a, 1, 2, 3))
		require.Empty(t, s.calls)
	})
}

func TestGetMany_WaitsForKeysLoadedElsewhereAndLoadsTheOthers(t *testing.T) {
	t.Parallel()
	inShops(t, Spec[int, string]{LeaseTTL: longLease}, func(t *testing.T, _ *redis.Client, s *shop, a, b *Cache[int, string]) {
		elsewhere2, elsewhere3 := asking(t.Context(), b, 2), (<-chan answer)(nil)
		load2 := s.next(t, 2)
		elsewhere3 = asking(t.Context(), b, 3)
		load3 := s.next(t, 3)
		all := askingMany(t.Context(), a, 1, 2, 3, 4)
		s.next(t, 1, 4).delivers("up")
		synctest.Wait()
		require.Empty(t, all)
		gets(t, "up1", asking(t.Context(), a, 1))
		gets(t, "up4", asking(t.Context(), b, 4))

		load2.delivers("up")
		gets(t, "up2", elsewhere2)
		synctest.Wait()
		require.Empty(t, all)
		load3.answer <- func() (map[int]string, error) { return nil, errSource }
		require.ErrorIs(t, receive(t, elsewhere3).err, errSource)
		s.next(t, 3).delivers("new") // by this one, since the other has failed
		getsMany(t, map[int]string{1: "up1", 2: "up2", 3: "new3", 4: "up4"}, all)
	})
}

func TestGetMany_LoadCountsOnceForMaxLoads(t *testing.T) {
	t.Parallel()
	inShops(t, Spec[int, string]{LeaseTTL: longLease, MaxLoads: 2}, func(t *testing.T, rdb *redis.Client, s *shop, a, _ *Cache[int, string]) {
		first := askingMany(t.Context(), a, 1, 2, 3, 4, 5)
		load1 := s.next(t, 1, 2, 3, 4, 5)
		second := askingMany(t.Context(), a, 6, 7)
		load2 := s.next(t, 6, 7)
		third, fourth := askingMany(t.Context(), a, 8, 9), asking(t.Context(), a, 1)
		synctest.Wait()
		require.Empty(t, s.calls)
		require.EqualValues(t, 7, rdb.DBSize(t.Context()).Val(), "who waits for a place has no lease")
		load1.delivers("up")
		getsMany(t, goods("up", 1, 2, 3, 4, 5), first)
		gets(t, "up1", fourth)
		s.next(t, 8, 9).delivers("up")
		load2.delivers("up")
		getsMany(t, goods("up", 6, 7), second)
		getsMany(t, goods("up", 8, 9), third)
	})
}

// Those who wait for another process have parted from the load of the others, and
// need a place of their own when they get to load.
func TestGetMany_KeysThatWaitedCountForMaxLoadsWhenLoaded(t *testing.T) {
	t.Parallel()
	inShops(t, Spec[int, string]{LeaseTTL: longLease, MaxLoads: 1}, func(t *testing.T, _ *redis.Client, s *shop, a, b *Cache[int, string]) {
		elsewhere := askingMany(t.Context(), b, 1, 2)
		load := s.next(t, 1, 2)
		all := askingMany(t.Context(), a, 1, 2, 3)
		here := s.next(t, 3)
		synctest.Wait()
		load.answer <- func() (map[int]string, error) { return nil, errSource }
		require.ErrorIs(t, receive(t, elsewhere).err, errSource)
		time.Sleep(time.Minute / 2) // they have noticed
		synctest.Wait()
		require.Empty(t, s.calls, "there is one place, and it is taken")
		here.delivers("up")
		for range 2 {
			o := receive(t, s.calls)
			synctest.Wait()
			require.Empty(t, s.calls)
			o.delivers("up")
		}
		getsMany(t, goods("up", 1, 2, 3), all)
	})
}

func TestUpMany_NestedLoadOfItsOwnKeyIsAnError(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		var c *Cache[int, string]
		c = newCache(t, rdb, Spec[int, string]{LeaseTTL: longLease, MaxLoads: 1, UpMany: func(ctx context.Context, ids []int) (map[int]string, error) {
			values, err := map[int]string{}, error(nil)
			for _, id := range ids {
				switch {
				case id >= 10:
					values[id] = "deep"
				default:
					below, failed := c.GetMany(ctx, []int{10 * id, 10*id + 1})
					values[id], err = below[10*id]+below[10*id+1], errors.Join(err, failed)
				}
			}
			return values, err
		}})
		got, err := c.GetMany(t.Context(), []int{1, 2})
		require.NoError(t, err)
		require.Equal(t, map[int]string{1: "deepdeep", 2: "deepdeep"}, got)

		var own *Cache[int, string]
		own = newCache(t, rdb, Spec[int, string]{LeaseTTL: longLease, UpMany: func(ctx context.Context, ids []int) (map[int]string, error) {
			return own.GetMany(ctx, []int{3, 2})
		}})
		_, err = own.GetMany(t.Context(), []int{1, 2})
		require.Error(t, err)
		require.Zero(t, rdb.Exists(t.Context(), own.Key(1), own.Key(2), own.Key(3)).Val())
	})
}
