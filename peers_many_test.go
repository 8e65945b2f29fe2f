package cachex

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/loader"
)

// The tests of this file are of what goes wrong elsewhere where many keys are
// asked for at once.

// hot wakes those who wait for the first key only: the others are never loaded
// again. rockscache makes it empty strings and no error.
func TestUpMany_PanicIsTheErrorOfEveryKey(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", UpMany: s.upMany, LeaseTTL: 2 * patience}
		c, other := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		many := askingMany(t.Context(), c, 1, 2, 3)
		load := s.next(t, 1, 2, 3)
		one, three := asking(t.Context(), c, 1), asking(t.Context(), c, 3)
		joined(t, c, 2)
		load.answer <- func() (map[int]string, error) { panic("boom") }
		got := receive(t, many)
		require.Empty(t, got.values)
		for _, err := range []error{got.err, receive(t, one).err, receive(t, three).err} {
			_, ok := errors.AsType[*loader.PanicError](err)
			require.True(t, ok, "%v", err)
		}
		for _, again := range []*Cache[int, string]{c, other} {
			next := askingMany(t.Context(), again, 1, 2, 3)
			s.next(t, 1, 2, 3).delivers("up")
			getsMany(t, goods("up", 1, 2, 3), next)
			require.NoError(t, c.Delete(t.Context(), 1, 2, 3))
		}
	})
}

// In sturdyc the error of one batch is lost if another one, of which the caller
// waits for a key too, goes well.
func TestGetMany_ErrorOfOneLoadIsReturned(t *testing.T) {
	t.Parallel()
	inShops(t, Spec[int, string]{LeaseTTL: longLease}, func(t *testing.T, _ *redis.Client, s *shop, a, b *Cache[int, string]) {
		for _, failing := range []int{1, 3, 5} {
			var loads []*order
			askingMany(t.Context(), a, 1, 2)
			loads = append(loads, s.next(t, 1, 2))
			askingMany(t.Context(), b, 3, 4)
			loads = append(loads, s.next(t, 3, 4))
			all := askingMany(t.Context(), a, 1, 2, 3, 4, 5, 6)
			loads = append(loads, s.next(t, 5, 6))
			synctest.Wait()
			want := goods("up", 1, 2, 3, 4, 5, 6)
			for _, o := range loads {
				if !slices.Contains(o.ids, failing) {
					o.delivers("up")
					continue
				}
				o.answer <- func() (map[int]string, error) { return nil, io.ErrUnexpectedEOF }
				delete(want, failing)
				delete(want, failing+1)
			}
			if failing == 3 { // of another process: then it is loaded here
				for range 2 {
					receive(t, s.calls).answer <- func() (map[int]string, error) { return nil, io.ErrUnexpectedEOF }
				}
			}
			got := receive(t, all)
			require.ErrorIs(t, got.err, io.ErrUnexpectedEOF)
			require.Equal(t, a.Key(failing), got.err.(*Error).Key)
			require.Equal(t, want, got.values)
			synctest.Wait() // for the other callers, too: nobody is to join their flights
			require.NoError(t, a.Delete(t.Context(), 1, 2, 3, 4, 5, 6))
		}
	})
}

// In jetcache-go who has joined a batch gets what there is of it and no error.
func TestGetMany_JoiningCallerGetsTheErrorToo(t *testing.T) {
	t.Parallel()
	inShops(t, Spec[int, string]{LeaseTTL: longLease}, func(t *testing.T, _ *redis.Client, s *shop, a, _ *Cache[int, string]) {
		calls := []<-chan armful{askingMany(t.Context(), a, 1, 2, 3)}
		load := s.next(t, 1, 2, 3)
		for range 3 {
			calls = append(calls, askingMany(t.Context(), a, 3, 2, 1))
		}
		synctest.Wait()
		load.answer <- func() (map[int]string, error) { return goods("up", 2), io.ErrUnexpectedEOF }
		for _, ch := range calls {
			got := receive(t, ch)
			require.ErrorIs(t, got.err, io.ErrUnexpectedEOF)
			require.Equal(t, goods("up", 2), got.values)
		}
	})
}

// A picky codec cannot encode one value.
type picky struct{ codec.Codec[string] }

func (p picky) Append(dst []byte, v string) ([]byte, error) {
	if v == "bad" {
		return dst, io.ErrUnexpectedEOF
	}
	return p.Codec.Append(dst, v)
}

// jetcache-go remembers it as one that does not exist.
func TestGetMany_ValueThatCannotBeEncodedIsReturned(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		c := newCache(t, rdb, Spec[int, string]{
			UpMany: s.upMany, LeaseTTL: longLease, NotFoundTTL: time.Hour, Codec: picky{codec.For[string]()},
		})
		values := map[int]string{1: "good", 2: "bad", 3: "good"}
		ch := askingMany(t.Context(), c, 1, 2, 3)
		s.next(t, 1, 2, 3).answer <- func() (map[int]string, error) { return values, nil }
		getsMany(t, values, ch)
		require.EqualValues(t, 1, c.Stats().StoreFailures)
		require.Zero(t, rdb.Exists(t.Context(), c.Key(2)).Val())
		ch = askingMany(t.Context(), c, 1, 2, 3)
		s.next(t, 2).answer <- func() (map[int]string, error) { return map[int]string{2: "now good"}, nil }
		getsMany(t, map[int]string{1: "good", 2: "now good", 3: "good"}, ch)
	})
}

// go-redis returns the first error of a pipeline, and redis.Nil is one. jetcache-go
// then takes a key for missing whose node has failed, and an empty value for none.
func TestGetMany_ErrorIsNotHiddenByAnEarlierMiss(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}"}
		writer := newCache(t, rdb, spec)
		require.NoError(t, writer.SetMany(t.Context(), map[int]string{2: "", 3: "set", 4: "set"}))
		third := func(cmd redis.Cmder) bool { return cmd.Name() == "get" && cmd.Args()[1] == writer.Key(3) }
		c := newCache(t, apart{faulty(t, rdb, redistest.Fault{Match: third, Times: redistest.Always, Err: serverError("LOADING")})}, spec)
		for _, ask := range []func(context.Context, []int) (map[int]string, error){c.LookupMany, c.GetMany} {
			values, err := ask(t.Context(), []int{1, 2, 3})
			require.ErrorIs(t, err, serverError("LOADING"))
			require.Equal(t, c.Key(3), err.(*Error).Key)
			require.Equal(t, map[int]string{2: ""}, values, "an empty value is one")
		}
	})
}

// rockscache stores none of those that come after one that it has lost.
func TestGetMany_LostLeaseDoesNotPreventOtherStores(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		c := newCache(t, rdb, Spec[int, string]{UpMany: s.upMany, LeaseTTL: longLease})
		ch := askingMany(t.Context(), c, 1, 2, 3, 4)
		load := s.next(t, 1, 2, 3, 4)
		require.NoError(t, rdb.Del(t.Context(), c.Key(1)).Err())
		require.NoError(t, rdb.Set(t.Context(), c.Key(3), "foreign", 0).Err())
		load.delivers("up")
		getsMany(t, goods("up", 1, 2, 3, 4), ch)
		getsMany(t, goods("up", 2, 4), lookingUp(t, c, 1, 2, 3, 4))
		require.EqualValues(t, 2, c.Stats().Fenced)
	})
}

// In rockscache a goroutine is handed a slice that is then written to.
func TestUpMany_MayChangeItsSliceOfKeys(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		asked, goOn := make(chan []int, 10), make(chan bool, 10)
		c := newCache(t, rdb, Spec[int, string]{LeaseTTL: longLease, UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
			slices.Sort(ids) // as a database would have them
			values := goods("up", ids...)
			asked <- slices.Clone(ids)
			<-goOn
			clear(ids)
			return values, nil
		}})
		ids := []int{5, 3, 1, 4, 2}
		done := make(chan armful, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			values, err := c.GetMany(ctx, ids)
			done <- armful{values, err}
		}()
		require.Equal(t, []int{1, 2, 3, 4, 5}, receive(t, asked))
		goOn <- true
		getsMany(t, goods("up", 1, 2, 3, 4, 5), done)
		getsMany(t, goods("up", 1, 2, 3, 4, 5), lookingUp(t, c, 1, 2, 3, 4, 5))

		// Who has left may use its slice again, though the load goes on for another.
		require.NoError(t, c.Delete(t.Context(), ids...))
		go func() {
			values, err := c.GetMany(ctx, ids)
			clear(ids)
			done <- armful{values, err}
		}()
		receive(t, asked)
		one := asking(t.Context(), c, 4)
		joined(t, c, 6) // of the five before, and this one
		cancel()
		require.ErrorIs(t, receive(t, done).err, context.Canceled)
		goOn <- true
		gets(t, "up4", one)
		getsMany(t, goods("up", 1, 2, 3, 4, 5), lookingUp(t, c, 1, 2, 3, 4, 5))
	})
}

// In jetcache-go the next round of its refresher brings it back; sturdyc and hot
// write what a reload in the background has found over it.
func TestGetMany_BackgroundReloadDoesNotRestoreADeletedValue(t *testing.T) {
	t.Parallel()
	spec := Spec[int, string]{LeaseTTL: longLease, TTL: time.Hour, Jitter: NoJitter, StaleWhileRevalidate: time.Hour}
	inShops(t, spec, func(t *testing.T, rdb *redis.Client, s *shop, a, b *Cache[int, string]) {
		require.NoError(t, a.SetMany(t.Context(), goods("old", 1, 2, 3)))
		time.Sleep(time.Hour + time.Minute)
		getsMany(t, goods("old", 1, 2, 3), askingMany(t.Context(), a, 1, 2, 3))
		load := s.next(t, 1, 2, 3)
		require.NoError(t, b.Delete(t.Context(), 1))
		require.NoError(t, b.Set(t.Context(), 2, "set2"))
		load.delivers("reloaded")
		synctest.Wait()
		getsMany(t, map[int]string{2: "set2", 3: "reloaded3"}, lookingUp(t, b, 1, 2, 3))
		require.Zero(t, rdb.Exists(t.Context(), a.Key(1)).Val())
	})
}

// rockscache gives it three seconds to live, for one error.
func TestGetMany_FailedReloadDoesNotShortenAStaleValue(t *testing.T) {
	t.Parallel()
	spec := Spec[int, string]{LeaseTTL: 3 * time.Second, TTL: time.Hour, Jitter: NoJitter, StaleIfError: 10 * time.Hour}
	inShops(t, spec, func(t *testing.T, rdb *redis.Client, s *shop, a, _ *Cache[int, string]) {
		require.NoError(t, a.SetMany(t.Context(), goods("old", 1, 2)))
		for range 4 {
			time.Sleep(2 * time.Hour)
			before := rdb.PTTL(t.Context(), a.Key(1)).Val()
			require.Greater(t, before, time.Hour)
			ch := askingMany(t.Context(), a, 1, 2)
			s.next(t, 1, 2).answer <- func() (map[int]string, error) { return nil, errSource }
			getsMany(t, goods("old", 1, 2), ch)
			require.Equal(t, before, rdb.PTTL(t.Context(), a.Key(1)).Val())
			getsMany(t, goods("old", 1, 2), askingMany(t.Context(), a, 1, 2)) // and nobody tries again at once
		}
	})
}

// In sturdyc what was known to be absent becomes a zero value.
func TestGetMany_ErrorAfterARememberedAbsenceIsNoValue(t *testing.T) {
	t.Parallel()
	spec := Spec[int, string]{LeaseTTL: longLease, Jitter: NoJitter, NotFoundTTL: time.Minute, StaleIfError: time.Hour}
	inShops(t, spec, func(t *testing.T, rdb *redis.Client, s *shop, a, _ *Cache[int, string]) {
		ch := askingMany(t.Context(), a, 1, 2)
		s.next(t, 1, 2).answer <- func() (map[int]string, error) { return nil, nil }
		getsMany(t, map[int]string{}, ch)
		for range 3 {
			time.Sleep(time.Minute + time.Second)
			ch = askingMany(t.Context(), a, 1, 2)
			s.next(t, 1, 2).answer <- func() (map[int]string, error) { return nil, errSource }
			got := receive(t, ch)
			require.ErrorIs(t, got.err, errSource)
			require.Empty(t, got.values)
			getsMany(t, map[int]string{}, lookingUp(t, a, 1, 2))
			require.Zero(t, rdb.Exists(t.Context(), a.Key(1), a.Key(2)).Val())
		}
	})
}
