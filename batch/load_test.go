package batch_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestRun_OverlappingReadsLoadEachKeyOnce(t *testing.T) {
	t.Parallel()
	inShops(t, cachex.Spec[int, string]{LeaseTTL: longLease}, func(t *testing.T, _ *redis.Client, s *shop, a, b *cachex.Cache[int, string]) {
		first := running(t.Context(), a, 1, 2, 3)
		load123 := s.next(t, 1, 2, 3)
		second := running(t.Context(), a, 2, 3, 4)
		load4 := s.next(t, 4)
		one := getting(t.Context(), a, 3)
		third := running(t.Context(), b, 3, 4, 5) // of another process
		load5 := s.next(t, 5)
		elsewhere := getting(t.Context(), b, 1)
		fourth := running(t.Context(), b, 5, 1)
		synctest.Wait()
		require.Empty(t, s.calls)

		load123.delivers("up")
		has(t, goods("up", 1, 2, 3), first)
		has(t, goods("up", 3), one)
		has(t, goods("up", 1), elsewhere)
		synctest.Wait()
		require.Empty(t, second)
		load4.delivers("up")
		has(t, goods("up", 2, 3, 4), second)
		synctest.Wait()
		require.Empty(t, third)
		load5.delivers("up")
		has(t, goods("up", 3, 4, 5), third)
		has(t, goods("up", 1, 5), fourth)
		require.EqualValues(t, 2, a.Stats().Loads)
		require.EqualValues(t, 1, b.Stats().Loads)
	})
}

// Guarantee 1: what was loaded before a Delete is not returned to who came after.
func TestRun_DeleteDuringALoadFencesOnlyItsKey(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"this cache", "another cache"} {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			inShops(t, cachex.Spec[int, string]{LeaseTTL: longLease}, func(t *testing.T, _ *redis.Client, s *shop, a, b *cachex.Cache[int, string]) {
				by := b
				if from == "this cache" {
					by = a
				}
				before := running(t.Context(), a, 1, 2, 3)
				load := s.next(t, 1, 2, 3)
				require.NoError(t, by.Delete(t.Context(), 2))
				after := running(t.Context(), a, 1, 2)
				elsewhere := running(t.Context(), b, 2, 3)
				fresh := s.next(t, 2)
				synctest.Wait()
				load.delivers("old")
				has(t, goods("old", 1, 2, 3), before)
				fresh.delivers("new")
				has(t, map[int]string{1: "old1", 2: "new2"}, after)
				has(t, map[int]string{2: "new2", 3: "old3"}, elsewhere)
				has(t, map[int]string{1: "old1", 2: "new2", 3: "old3"}, running(t.Context(), b, 1, 2, 3))
				require.EqualValues(t, 1, a.Stats().Fenced)
			})
		})
	}
}

func TestRun_StaleValuesAreServedAndReloadedInOneCall(t *testing.T) {
	t.Parallel()
	spec := cachex.Spec[int, string]{LeaseTTL: longLease, TTL: time.Hour, StaleWhileRevalidate: time.Hour}
	inShops(t, spec, func(t *testing.T, _ *redis.Client, s *shop, a, b *cachex.Cache[int, string]) {
		require.NoError(t, a.SetMany(t.Context(), goods("old", 1, 2)))
		time.Sleep(time.Hour + time.Minute)
		ch := running(t.Context(), a, 1, 2)
		synctest.Wait()
		require.Len(t, ch, 1, "it should not wait for the load")
		has(t, goods("old", 1, 2), ch)
		load := s.next(t, 1, 2)
		has(t, goods("old", 1, 2), running(t.Context(), a, 1, 2))
		has(t, goods("old", 1, 2), running(t.Context(), b, 1, 2))
		load.delivers("new")
		synctest.Wait()
		has(t, goods("new", 1, 2), running(t.Context(), b, 1, 2))
		require.EqualValues(t, 4, a.Stats().StaleHits)
		require.EqualValues(t, 2, b.Stats().StaleHits)
		require.EqualValues(t, 2, b.Stats().Hits)
	})
}

func TestRun_StaleValuesAreServedIfTheLoadFailsOrIsSlow(t *testing.T) {
	t.Parallel()
	spec := cachex.Spec[int, string]{LeaseTTL: longLease, TTL: time.Hour, StaleIfError: 10 * time.Hour, SoftTimeout: time.Second}
	inShops(t, spec, func(t *testing.T, _ *redis.Client, s *shop, a, _ *cachex.Cache[int, string]) {
		require.NoError(t, a.SetMany(t.Context(), goods("old", 1, 2)))
		time.Sleep(time.Hour + time.Minute)
		ch := running(t.Context(), a, 1, 2, 3)
		down := errors.New("down")
		s.next(t, 1, 2, 3).fails(down)
		got := receive(t, ch)
		require.NoError(t, got.run, "an error of Up is one of its key")
		require.ErrorIs(t, got.err, down)
		require.EqualError(t, got.err, "cachex: get k:3: down")
		require.Equal(t, goods("old", 1, 2), got.values)

		time.Sleep(time.Minute) // the pause is over
		began := time.Now()
		ch = running(t.Context(), a, 1, 2)
		slow := s.next(t, 1, 2)
		has(t, goods("old", 1, 2), ch)
		require.Equal(t, time.Second, time.Since(began))
		slow.delivers("new")
		synctest.Wait()
		has(t, goods("new", 1, 2), running(t.Context(), a, 1, 2))
	})
}

func TestRun_ReloadsEarly(t *testing.T) {
	t.Parallel()
	spec := cachex.Spec[int, string]{LeaseTTL: longLease, TTL: time.Hour, EarlyRefresh: 1e9}
	inShops(t, spec, func(t *testing.T, _ *redis.Client, s *shop, a, _ *cachex.Cache[int, string]) {
		ch := running(t.Context(), a, 1)
		load := s.next(t, 1)
		time.Sleep(time.Second)
		load.delivers("old")
		has(t, goods("old", 1), ch)
		ch = running(t.Context(), a, 1)
		has(t, goods("old", 1), ch)
		s.next(t, 1).delivers("new")
	})
}

func TestRun_LoadCountsOnceForMaxLoads(t *testing.T) {
	t.Parallel()
	inShops(t, cachex.Spec[int, string]{LeaseTTL: longLease, MaxLoads: 1}, func(t *testing.T, _ *redis.Client, s *shop, a, _ *cachex.Cache[int, string]) {
		first := running(t.Context(), a, 1, 2)
		load := s.next(t, 1, 2)
		second := running(t.Context(), a, 3, 4)
		synctest.Wait()
		require.Empty(t, s.calls)
		load.delivers("up")
		has(t, goods("up", 1, 2), first)
		s.next(t, 3, 4).delivers("up")
		has(t, goods("up", 3, 4), second)
	})
}

func TestRun_LeavingCallerGetsTheValuesReadSoFar(t *testing.T) {
	t.Parallel()
	inShops(t, cachex.Spec[int, string]{LeaseTTL: longLease}, func(t *testing.T, _ *redis.Client, s *shop, a, _ *cachex.Cache[int, string]) {
		require.NoError(t, a.SetMany(t.Context(), goods("set", 1)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		first := running(ctx, a, 1, 2, 3)
		load := s.next(t, 2, 3)
		second := running(t.Context(), a, 3)
		synctest.Wait()
		got := receive(t, first)
		require.EqualError(t, got.run, "cachex: batch: context deadline exceeded")
		require.ErrorIs(t, got.err, context.DeadlineExceeded)
		require.Equal(t, goods("set", 1), got.values)
		require.NoError(t, load.ctx.Err())
		load.delivers("up")
		has(t, goods("up", 3), second)
	})
}

// A cache that is one of several in a Batch.
func TestRun_SourcesLoadConcurrently(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		trips := new(redistest.Counter)
		loadScripts(t, rdb)
		rdb.AddHook(trips)
		made := func(name string, takes time.Duration, err error) *cachex.Cache[int, string] {
			return cachex.Must(cachex.New(rdb, cachex.Spec[int, string]{
				Key: name + ":{id}", TTL: time.Hour, UpTimeout: time.Minute,
				Up: func(ctx context.Context, id int) (string, error) {
					time.Sleep(takes)
					if ctx.Value(userKey{}) != "ann" {
						return "", errors.New("Up does not see the values of ctx")
					}
					return fmt.Sprint(name, id), err
				},
			}))
		}
		fast, even, slow := made("fast", 40*time.Millisecond, nil), made("even", 60*time.Millisecond, nil), made("slow", 700*time.Millisecond, nil)
		bad, late := made("bad", 50*time.Millisecond, errors.New("down")), made("late", time.Hour, nil)
		panics := cachex.Must(cachex.New(rdb, cachex.Spec[int, string]{
			Key: "panics:{id}", TTL: time.Hour, Up: func(context.Context, int) (string, error) { panic("up") },
		}))
		ctx := context.WithValue(t.Context(), userKey{}, "ann")
		run := func(caches ...*cachex.Cache[int, string]) (values []*batch.Value[string], took time.Duration) {
			t.Helper()
			var b batch.Batch
			for _, c := range caches {
				values = append(values, batch.Get(&b, c, 1))
			}
			trips.Reset()
			began := time.Now()
			require.NoError(t, b.Run(ctx))
			return values, time.Since(began)
		}
		v, took := run(fast, even, bad)
		require.Equal(t, 60*time.Millisecond, took)
		require.Equal(t, 3, trips.RoundTrips()-trips.Count("subscribe"), "read, take the leases, store")
		requireValue(t, "fast1", v[0])
		requireValue(t, "even1", v[1])
		_, err := v[2].Get()
		require.EqualError(t, err, "cachex: get bad:1: down")

		require.NoError(t, fast.Delete(ctx, 1))
		v, took = run(fast, slow, panics)
		require.Equal(t, 700*time.Millisecond, took)
		require.Equal(t, 5, trips.RoundTrips()-trips.Count("subscribe"), "what takes long is stored by itself, as is what failed at once")
		requireValue(t, "fast1", v[0])
		requireValue(t, "slow1", v[1])
		_, err = v[2].Get()
		require.ErrorContains(t, err, "panic")

		v, took = run(fast, late, slow)
		require.Equal(t, time.Minute, took, "UpTimeout")
		requireValue(t, "fast1", v[0])
		_, err = v[1].Get()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		requireValue(t, "slow1", v[2])
		time.Sleep(time.Hour) // the load that was left behind
		for _, c := range []*cachex.Cache[int, string]{fast, even, slow, bad, late, panics} {
			require.NoError(t, c.Close(ctx))
		}
	})
}

type userKey struct{}

func TestRun_IsWaitedForByClose(t *testing.T) {
	t.Parallel()
	inShops(t, cachex.Spec[int, string]{LeaseTTL: longLease}, func(t *testing.T, rdb *redis.Client, s *shop, a, b *cachex.Cache[int, string]) {
		ch := running(t.Context(), a, 1)
		load := s.next(t, 1)
		closed := make(chan error, 1)
		go func() { closed <- a.Close(context.WithoutCancel(t.Context())) }()
		synctest.Wait()
		require.Empty(t, closed)

		// A Batch with a closed cache, and one that is open.
		require.NoError(t, b.Set(t.Context(), 2, "set2"))
		var both batch.Batch
		shut, fine := batch.Get(&both, a, 1), batch.Get(&both, b, 2)
		all := batch.GetMany(&both, a, []int{1, 2})
		require.NoError(t, both.Run(t.Context()))
		requireValue(t, "set2", fine)
		_, err := shut.Get()
		require.ErrorIs(t, err, cachex.ErrClosed)
		values, err := all.Get()
		require.ErrorIs(t, err, cachex.ErrClosed)
		require.Empty(t, values)

		load.delivers("up")
		has(t, goods("up", 1), ch)
		require.NoError(t, receive(t, closed))
	})
}

// An inspector counts, and panics if it is told to.
type inspector struct {
	events []string
	panics string
}

func (o *inspector) Begin(ctx context.Context, e cachex.Event) context.Context {
	o.events = append(o.events, fmt.Sprint("begin ", e.Op, " ", e.Cache, " ", e.Key, " ", e.Keys))
	if o.panics == "begin" {
		panic("observer")
	}
	return ctx
}

func (o *inspector) End(_ context.Context, e cachex.Event, r cachex.Result) {
	o.events = append(o.events, fmt.Sprint("end ", e.Op, " ", r.Outcome, " ", r.Err))
	if o.panics == "end" && e.Op == "get" {
		panic("observer")
	}
}

func TestRun_ObserverSeesThePartOfItsCache(t *testing.T) {
	t.Parallel()
	o := new(inspector)
	inShops(t, cachex.Spec[int, string]{Observer: o, LeaseTTL: longLease}, func(t *testing.T, _ *redis.Client, s *shop, a, _ *cachex.Cache[int, string]) {
		how := cachex.Stale
		ctx := cachex.WithOutcome(t.Context(), &how)
		ch := running(ctx, a, 1, 2, 9)
		s.next(t, 1, 2, 9).answer <- func() (map[int]string, error) { return goods("up", 1, 2), nil }
		has(t, goods("up", 1, 2), ch)
		require.Equal(t, cachex.Stale, how, "it is not set")
		require.Equal(t, []string{"begin get k k:1 3", "begin load k k:1 3", "end load  <nil>", "end get loaded <nil>"}, o.events)
		st := a.Stats()
		require.EqualValues(t, []int64{0, 3, 1}, []int64{st.Hits, st.Misses, st.Loads})
		has(t, goods("up", 1, 2), running(ctx, a, 1, 2))
		require.EqualValues(t, 2, a.Stats().Hits)

		o.panics = "begin"
		has(t, goods("up", 1), running(ctx, a, 1))
		o.panics = "end"
		has(t, goods("up", 1), running(ctx, a, 1))
		require.EqualValues(t, 2, a.Stats().ObserverFailures)
	})
}

type noText struct{ id int }

func TestRun_InvalidKeyIsTheErrorOfThatKey(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		prefix := redistest.Key(t)
		var asked []noText
		c := cachex.Must(cachex.New(rdb, cachex.Spec[noText, string]{
			Name: "bad", TTL: time.Minute,
			KeyFunc: func(k noText) string {
				if k.id%2 == 0 {
					panic("odd")
				}
				return fmt.Sprint(prefix, k.id)
			},
			UpMany: func(_ context.Context, ks []noText) (map[noText]string, error) {
				asked = ks
				m := map[noText]string{}
				for _, k := range ks {
					m[k] = fmt.Sprint("up", k.id)
				}
				return m, nil
			},
		}))
		defer func() { require.NoError(t, c.Close(context.WithoutCancel(t.Context()))) }()
		var b batch.Batch
		all := batch.GetMany(&b, c, []noText{{1}, {2}, {3}, {4}, {5}})
		three, four := batch.Get(&b, c, noText{3}), batch.Get(&b, c, noText{4})
		require.NoError(t, b.Run(t.Context()))
		values, err := all.Get()
		require.ErrorContains(t, err, "cachex: get bad: Spec.KeyFunc panicked")
		require.Equal(t, map[noText]string{{1}: "up1", {3}: "up3", {5}: "up5"}, values)
		require.Len(t, asked, 3)
		requireValue(t, "up3", three)
		_, err = four.Get()
		require.ErrorContains(t, err, "Spec.KeyFunc panicked")

		var only batch.Batch
		two := batch.Get(&only, c, noText{2})
		require.NoError(t, only.Run(t.Context()))
		_, err = two.Get()
		require.ErrorContains(t, err, "Spec.KeyFunc panicked")
	})
}
