package cachex

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// What is true of each key by itself while others are loaded with it.

func TestGetMany_DeleteDuringALoadFencesOnlyItsKey(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"this cache", "another cache"} {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				s := newShop(t)
				spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", UpMany: s.upMany, LeaseTTL: longLease}
				c, other := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
				by := other
				if from == "this cache" {
					by = c
				}
				ids := numbers(0, 20)
				before := askingMany(t.Context(), c, ids...)
				load := s.next(t, ids...)
				require.NoError(t, by.Delete(t.Context(), 7))
				one := asking(t.Context(), c, 7)
				var fresh *order
				var some <-chan armful
				if by == c { // which knows that the load is of no use any more
					fresh = s.next(t, 7)
					some = askingMany(t.Context(), other, 6, 7, 8)
					waiting(t, other, 3)
				} else {
					joined(t, c, 1)
					some = askingMany(t.Context(), other, 6, 7, 8)
					fresh = s.next(t, 7)
					waiting(t, other, 2)
				}
				load.delivers("old")
				getsMany(t, goods("old", ids...), before) // who was there before
				fresh.delivers("new")
				gets(t, "new7", one)
				getsMany(t, map[int]string{6: "old6", 7: "new7", 8: "old8"}, some)
				require.EqualValues(t, 1, c.Stats().Fenced)
				want := goods("old", ids...)
				want[7] = "new7"
				getsMany(t, want, askingMany(t.Context(), c, ids...))
				getsMany(t, want, askingMany(t.Context(), other, ids...))
				require.Empty(t, s.calls)
			})
		})
	}
}

func TestGetMany_SetDuringALoadWins(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", UpMany: s.upMany, LeaseTTL: longLease}
		c, other := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		before := askingMany(t.Context(), c, 1, 2, 3)
		load := s.next(t, 1, 2, 3)
		require.NoError(t, other.SetMany(t.Context(), goods("set", 2)))
		load.delivers("old")
		getsMany(t, goods("old", 1, 2, 3), before)
		require.EqualValues(t, 1, c.Stats().Fenced)
		getsMany(t, map[int]string{1: "old1", 2: "set2", 3: "old3"}, askingMany(t.Context(), c, 1, 2, 3))
	})
}

// The load has ended, and its values are on their way.
func TestGetMany_DeleteBeforeAStoreWins(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", UpMany: s.upMany, LeaseTTL: longLease}
		arrived, goOn := make(chan bool, 10), make(chan bool)
		slow := again(t, rdb)
		slow.AddHook(&redistest.Gate{Before: func(_ context.Context, cmd redis.Cmder) {
			if sends(script.Store)(cmd) {
				arrived <- true
				<-goOn
			}
		}})
		c, other := newCache(t, slow, spec), newCache(t, rdb, spec)
		before := askingMany(t.Context(), c, 1, 2, 3)
		s.next(t, 1, 2, 3).delivers("old")
		for id := 1; id <= 3; id++ {
			receive(t, arrived)
			require.NoError(t, other.Delete(t.Context(), 2)) // before it is stored, and after
			goOn <- true
		}
		close(goOn)
		getsMany(t, goods("old", 1, 2, 3), before)
		getsMany(t, goods("old", 1, 3), lookingUp(t, other, 1, 2, 3))
	})
}

// lookingUp is askingMany by LookupMany.
func lookingUp(t *testing.T, c *Cache[int, string], ids ...int) <-chan armful {
	ch := make(chan armful, 1)
	values, err := c.LookupMany(t.Context(), ids)
	ch <- armful{values, err}
	return ch
}

func TestGetMany_LoadSlowerThanItsLeasesIsStored(t *testing.T) {
	t.Parallel()
	inShops(t, Spec[int, string]{LeaseTTL: time.Second, UpTimeout: time.Hour}, func(t *testing.T, rdb *redis.Client, s *shop, a, b *Cache[int, string]) {
		first := askingMany(t.Context(), a, 1, 2, 3)
		load := s.next(t, 1, 2, 3)
		elsewhere := askingMany(t.Context(), b, 1, 2, 3)
		time.Sleep(time.Minute)
		require.NoError(t, rdb.Del(t.Context(), a.Key(2)).Err()) // one is lost, and the others live on
		time.Sleep(time.Minute)
		s.next(t, 2).delivers("new")
		load.delivers("up")
		getsMany(t, goods("up", 1, 2, 3), first)
		want := map[int]string{1: "up1", 2: "new2", 3: "up3"}
		getsMany(t, want, elsewhere)
		getsMany(t, want, askingMany(t.Context(), a, 1, 2, 3))
		require.EqualValues(t, 1, a.Stats().Fenced)
	})
}

// A process that has just begun has no idea yet of what is there: it asks another
// way. What is stale is served all the same.
func TestGetMany_StaleValuesAreServedAtOnceAndReloadedInOneCall(t *testing.T) {
	t.Parallel()
	for _, new := range []bool{false, true} {
		for _, keys := range []int{1, 3} {
			t.Run(fmt.Sprint("new ", new, ", keys ", keys), func(t *testing.T) {
				t.Parallel()
				spec := Spec[int, string]{LeaseTTL: longLease, TTL: time.Hour, Jitter: NoJitter, StaleWhileRevalidate: time.Hour}
				inShops(t, spec, func(t *testing.T, _ *redis.Client, s *shop, a, b *Cache[int, string]) {
					ids := numbers(1, keys)
					require.NoError(t, a.SetMany(t.Context(), goods("old", ids...)))
					if !new {
						getsMany(t, goods("old", ids...), askingMany(t.Context(), b, ids...))
					}
					time.Sleep(time.Hour + time.Minute)
					var how Outcome
					ch := askingMany(WithOutcome(t.Context(), &how), b, ids...)
					synctest.Wait()
					require.Len(t, ch, 1, "it should not wait for the load")
					getsMany(t, goods("old", ids...), ch)
					require.Equal(t, Stale, how)
					load := s.next(t, ids...)
					getsMany(t, goods("old", ids...), askingMany(t.Context(), b, ids...))
					getsMany(t, goods("old", ids...), askingMany(t.Context(), a, ids...))
					synctest.Wait()
					require.Empty(t, s.calls)
					load.delivers("new")
					synctest.Wait()
					ch = askingMany(WithOutcome(t.Context(), &how), b, ids...)
					getsMany(t, goods("new", ids...), ch)
					require.Equal(t, Hit, how)
				})
			})
		}
	}
}

func TestGetMany_WaitsForMissingKeysOnly(t *testing.T) {
	t.Parallel()
	spec := Spec[int, string]{LeaseTTL: longLease, TTL: time.Hour, Jitter: NoJitter, StaleWhileRevalidate: time.Hour}
	inShops(t, spec, func(t *testing.T, _ *redis.Client, s *shop, a, _ *Cache[int, string]) {
		require.NoError(t, a.SetMany(t.Context(), goods("old", 1, 2)))
		getsMany(t, goods("old", 1, 2), askingMany(t.Context(), a, 1, 2))
		time.Sleep(time.Hour + time.Minute)
		ch := askingMany(t.Context(), a, 1, 2, 3)
		one, two := receive(t, s.calls), receive(t, s.calls)
		if len(one.ids) == 1 {
			one, two = two, one
		}
		require.ElementsMatch(t, []int{1, 2}, one.ids)
		require.Equal(t, []int{3}, two.ids)
		two.delivers("up")
		getsMany(t, map[int]string{1: "old1", 2: "old2", 3: "up3"}, ch)
		one.answer <- func() (map[int]string, error) { return nil, errSource }
		synctest.Wait()
		getsMany(t, map[int]string{1: "old1", 2: "old2", 3: "up3"}, askingMany(t.Context(), a, 1, 2, 3))
		require.Empty(t, s.calls, "nobody tries again so soon")
	})
}

func TestGetMany_StaleValuesAreServedIfTheLoadFails(t *testing.T) {
	t.Parallel()
	spec := Spec[int, string]{LeaseTTL: longLease, TTL: time.Hour, Jitter: NoJitter, StaleIfError: time.Hour}
	inShops(t, spec, func(t *testing.T, _ *redis.Client, s *shop, a, _ *Cache[int, string]) {
		require.NoError(t, a.SetMany(t.Context(), goods("old", 1, 2)))
		time.Sleep(time.Hour + time.Minute)
		var how Outcome
		ch := askingMany(WithOutcome(t.Context(), &how), a, 1, 2, 3)
		s.next(t, 1, 2, 3).answer <- func() (map[int]string, error) { return goods("new", 2), errSource }
		got := receive(t, ch)
		require.ErrorIs(t, got.err, errSource, "of the key that has nothing")
		require.Equal(t, a.Key(3), got.err.(*Error).Key)
		require.Equal(t, map[int]string{1: "old1", 2: "new2"}, got.values)
		require.Zero(t, how, "of a call that fails")
	})
}

func TestGetMany_RememberedAbsenceIsNotLoaded(t *testing.T) {
	t.Parallel()
	spec := Spec[int, string]{LeaseTTL: longLease, Jitter: NoJitter, NotFoundTTL: time.Minute}
	inShops(t, spec, func(t *testing.T, _ *redis.Client, s *shop, a, b *Cache[int, string]) {
		ch := askingMany(t.Context(), a, 1, 2, 3)
		s.next(t, 1, 2, 3).answer <- func() (map[int]string, error) { return goods("up", 1), nil }
		getsMany(t, goods("up", 1), ch)
		for _, c := range []*Cache[int, string]{a, b, a, b} { // that expect them to be missing, and then not
			var how Outcome
			getsMany(t, map[int]string{}, askingMany(WithOutcome(t.Context(), &how), c, 2, 3))
			require.Equal(t, NotFound, how)
		}
		require.EqualValues(t, 4, a.Stats().NotFoundHits)
		time.Sleep(time.Minute + time.Second)
		ch = askingMany(t.Context(), b, 2, 3)
		s.next(t, 2, 3).delivers("up")
		getsMany(t, goods("up", 2, 3), ch)
	})
}
