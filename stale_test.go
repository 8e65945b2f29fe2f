package cachex

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// The life of a value that is read by a fleet. A row is one moment, at which each
// of four caches reads. Times count from when the value was stored.
//
// A load takes 300 ms. A pause is 1, 2, 4 … s, a fifth more or less, so that the
// rows stand before and after it.
func TestStale_PhasesOfAValue(t *testing.T) {
	t.Parallel()
	const ms, load = time.Millisecond, 300 * time.Millisecond
	o := &origin{takes: load}
	spec := Spec[int, string]{
		TTL: 10 * time.Second, StaleWhileRevalidate: 10 * time.Second, StaleIfError: time.Minute,
	}
	inCrew(t, o, spec, func(t *testing.T, c *crew) {
		require.Equal(t, view{v: "v1", how: Loaded, took: load}, look(t.Context(), c.caches[0], 1))
		stored := time.Now()
		for _, row := range []struct {
			at    time.Duration
			down  bool
			v     string
			how   Outcome
			took  time.Duration
			loads int // that have begun then
		}{
			{at: 0, v: "v1", how: Hit, loads: 1},
			{at: 9999 * ms, v: "v1", how: Hit, loads: 1},
			{at: 10000 * ms, v: "v1", how: Stale, loads: 2}, // one for all four
			{at: 10150 * ms, v: "v1", how: Stale, loads: 2}, // it is under way
			{at: 10301 * ms, v: "v2", how: Hit, loads: 2},
			{at: 20299 * ms, v: "v2", how: Hit, loads: 2, down: true},
			{at: 20300 * ms, v: "v2", how: Stale, loads: 3, down: true}, // fails at 20.6 s: 1 s
			{at: 21390 * ms, v: "v2", how: Stale, loads: 3, down: true},
			{at: 21810 * ms, v: "v2", how: Stale, loads: 4, down: true}, // at 22.11: 2 s
			{at: 23700 * ms, v: "v2", how: Stale, loads: 4, down: true},
			{at: 24520 * ms, v: "v2", how: Stale, loads: 5, down: true}, // at 24.82: 4 s
			{at: 28010 * ms, v: "v2", how: Stale, loads: 5, down: true},
			{at: 29630 * ms, v: "v2", how: Stale, loads: 6, down: true}, // at 29.93: 8 s, beyond StaleWhileRevalidate
			{at: 30300 * ms, v: "v2", how: Stale, loads: 6, down: true},
			{at: 36320 * ms, v: "v2", how: Stale, loads: 6, down: true},
			{at: 39540 * ms, v: "v2", how: Stale, loads: 7, down: true, took: load}, // 16 s
			{at: 52630 * ms, v: "v2", how: Stale, loads: 7, down: true},
			{at: 60000 * ms, v: "v8", how: Waited, loads: 8, took: load},
			{at: 60301 * ms, v: "v8", how: Hit, loads: 8},
			{at: 70300 * ms, v: "v8", how: Stale, loads: 9, down: true}, // at 70.6: 1 s again
			{at: 71390 * ms, v: "v8", how: Stale, loads: 9, down: true},
			{at: 71810 * ms, v: "v8", how: Stale, loads: 10},
			{at: 72111 * ms, v: "v10", how: Hit, loads: 10},
		} {
			time.Sleep(row.at - time.Since(stored))
			o.fails(nil)
			if row.down {
				o.fails(errSource)
			}
			leaders := 0
			for _, got := range c.all() {
				if row.how == Waited && got.how == Loaded { // one of them did not wait for another
					leaders++
					got.how = Waited
				}
				require.Equal(t, view{v: row.v, how: row.how, took: row.took}, got, "at %v", row.at)
			}
			require.Equal(t, row.how == Waited, leaders == 1, "at %v", row.at)
			require.Equal(t, row.loads, o.loads(), "at %v", row.at)
		}
	})
}

// Whatever fails meanwhile, a value is not served for longer than it says.
func TestStaleIfError_ValueIsGoneAtItsEnd(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]time.Duration{"read seldom": 40 * time.Second, "read often": 100 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := &origin{takes: 50 * time.Millisecond}
			spec := Spec[int, string]{TTL: time.Second, StaleIfError: time.Minute, LeaseTTL: time.Minute}
			inCrew(t, o, spec, func(t *testing.T, c *crew) {
				require.NoError(t, look(t.Context(), c.caches[0], 1).err)
				end := time.Now().Add(time.Second + time.Minute)
				o.fails(errSource)
				time.Sleep(time.Second)
				for time.Until(end) > between {
					for _, got := range c.all() {
						require.NoError(t, got.err)
						require.Equal(t, Stale, got.how)
					}
					time.Sleep(between)
				}
				time.Sleep(time.Until(end) - time.Millisecond)
				require.Equal(t, "v1", look(t.Context(), c.caches[0], 1).v)
				time.Sleep(time.Until(end))
				got := look(t.Context(), c.caches[1], 1)
				require.ErrorIs(t, got.err, errSource)
				require.Equal(t, view{err: got.err, took: 50 * time.Millisecond}, got, "nobody has to wait for a pause without a value")
				o.fails(nil)
				require.Equal(t, Loaded, look(t.Context(), c.caches[2], 1).how)
			})
		})
	}
}

func TestBackoff_FleetTriesOncePerBackoffWhichDoubles(t *testing.T) {
	t.Parallel()
	o := &origin{takes: 100 * time.Millisecond}
	spec := Spec[int, string]{TTL: time.Second, StaleIfError: time.Hour, Backoff: 2 * time.Second}
	inCrew(t, o, spec, func(t *testing.T, c *crew) {
		require.NoError(t, look(t.Context(), c.caches[0], 1).err)
		o.fails(errSource)
		time.Sleep(time.Second)
		const every = 250 * time.Millisecond
		served := 0
		for range int(5 * time.Minute / every) {
			for _, got := range c.all() {
				require.Equal(t, "v1", got.v)
				require.Equal(t, Stale, got.how)
				require.Contains(t, []time.Duration{0, o.takes}, got.took)
				if got.took == 0 {
					served++
				}
			}
			time.Sleep(every)
		}
		pause := 2 * time.Second
		for i := range o.ended[1:] {
			if i+2 == len(o.began) {
				break
			}
			free := o.began[i+2].Sub(o.ended[i+1])
			require.GreaterOrEqual(t, free, pause*8/10-time.Millisecond, "pause %d", i)
			require.LessOrEqual(t, free, pause*12/10+every+o.takes, "pause %d", i)
			pause = min(2*pause, time.Minute)
		}
		require.Equal(t, time.Minute, pause, "no pause was as long as they get")
		require.Greater(t, served, 4*int(5*time.Minute/every)*9/10)
		var stats Stats
		for _, one := range c.caches {
			s := one.Stats()
			stats.LoadFailures += s.LoadFailures
			stats.Loads += s.Loads
			stats.StaleHits += s.StaleHits
			stats.Hits += s.Hits
		}
		require.EqualValues(t, o.loads(), stats.Loads)
		require.Equal(t, stats.Loads-1, stats.LoadFailures)
		require.EqualValues(t, 4*int(5*time.Minute/every), stats.StaleHits)
		require.Zero(t, stats.Hits)
	})
}

func TestStaleIfError_ZeroReturnsTheError(t *testing.T) {
	t.Parallel()
	o := &origin{takes: 100 * time.Millisecond}
	spec := Spec[int, string]{TTL: time.Second, StaleWhileRevalidate: 10 * time.Second}
	inCrew(t, o, spec, func(t *testing.T, c *crew) {
		require.NoError(t, look(t.Context(), c.caches[0], 1).err)
		o.fails(errSource)
		time.Sleep(11*time.Second - time.Millisecond)
		c.agree("v1", Stale, 0) // and a load has begun, which fails
		require.Equal(t, 2, o.loads())
		time.Sleep(time.Millisecond)
		got := look(t.Context(), c.caches[0], 1)
		require.ErrorIs(t, got.err, errSource)
		require.Empty(t, got.v)
		require.Zero(t, got.how)
	})
}

func TestLookup_SeesStaleValuesDuringStaleWhileRevalidate(t *testing.T) {
	t.Parallel()
	o := &origin{}
	spec := Spec[int, string]{TTL: time.Second, StaleWhileRevalidate: time.Second, StaleIfError: time.Minute}
	inCrew(t, o, spec, func(t *testing.T, c *crew) {
		require.NoError(t, look(t.Context(), c.caches[0], 1).err)
		stored := time.Now()
		for _, row := range []struct {
			at  time.Duration
			how Outcome
		}{
			{0, Hit}, {999 * time.Millisecond, Hit}, {time.Second, Stale}, {1999 * time.Millisecond, Stale}, {2 * time.Second, 0},
		} {
			time.Sleep(row.at - time.Since(stored))
			var how Outcome
			v, ok, err := c.caches[1].Lookup(WithOutcome(t.Context(), &how), 1)
			require.NoError(t, err)
			require.Equal(t, row.how, how, "at %v", row.at)
			require.Equal(t, row.how != 0, ok)
			require.Equal(t, row.how != 0, v == "v1")
		}
		require.Equal(t, 1, o.loads())
	})
}

func TestStale_ErrNotFoundRemovesTheValue(t *testing.T) {
	t.Parallel()
	for name, stale := range map[string]Spec[int, string]{
		"while it is reloaded": {StaleWhileRevalidate: time.Minute},
		"while it is kept":     {StaleIfError: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := &origin{takes: 100 * time.Millisecond}
			spec := stale
			spec.TTL = time.Second
			inCrew(t, o, spec, func(t *testing.T, c *crew) {
				require.NoError(t, look(t.Context(), c.caches[0], 1).err)
				o.fails(ErrNotFound)
				time.Sleep(time.Second)
				got := look(t.Context(), c.caches[0], 1)
				if spec.StaleWhileRevalidate > 0 {
					require.Equal(t, view{v: "v1", how: Stale}, got)
					time.Sleep(o.takes)
					synctest.Wait()
				} else {
					require.ErrorIs(t, got.err, ErrNotFound)
				}
				require.Zero(t, c.rdb.Exists(t.Context(), c.caches[0].Key(1)).Val())
				require.ErrorIs(t, look(t.Context(), c.caches[1], 1).err, ErrNotFound)
			})
		})
	}
}

// Who waits for the reload of a value that a Delete takes away, or comes after it,
// gets nothing that is older.
func TestStale_DeleteDuringAReloadFencesIt(t *testing.T) {
	t.Parallel()
	for name, other := range map[string]bool{"by this cache": false, "by another cache": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := Spec[int, string]{TTL: time.Second, StaleWhileRevalidate: time.Minute, StaleIfError: time.Hour, Jitter: NoJitter}
			inBubble(t, spec, func(t *testing.T, rdb *redis.Client, s *source, a, b *Cache[int, string]) {
				require.NoError(t, a.Set(t.Context(), 1, "stale"))
				time.Sleep(time.Second)
				gets(t, "stale", asking(t.Context(), a, 1))
				load := s.next(t)
				gets(t, "stale", asking(t.Context(), b, 1))
				synctest.Wait() // until b knows that somebody has the lease
				by := a
				if other {
					by = b
				}
				require.NoError(t, by.Delete(t.Context(), 1))
				here, there := looking(t.Context(), a, 1), looking(t.Context(), b, 1)
				synctest.Wait()
				require.Empty(t, here)
				require.Empty(t, there)
				load.returns("old", nil)
				synctest.Wait()
				require.Equal(t, int64(1), a.Stats().Fenced)
				s.next(t).returns("new", nil)
				require.Equal(t, "new", receive(t, here).v)
				require.Equal(t, "new", receive(t, there).v)
				gets(t, "new", asking(t.Context(), b, 1))
			})
		})
	}
}

// The same of those who wait where a value is only kept.
func TestStale_DeleteLeavesWaitersNoStaleValue(t *testing.T) {
	t.Parallel()
	spec := Spec[int, string]{TTL: time.Second, StaleIfError: time.Hour, Jitter: NoJitter, SoftTimeout: 10 * time.Second}
	inBubble(t, spec, func(t *testing.T, rdb *redis.Client, s *source, a, b *Cache[int, string]) {
		require.NoError(t, a.Set(t.Context(), 1, "stale"))
		time.Sleep(time.Second)
		before := looking(t.Context(), a, 1)
		load := s.next(t)
		require.NoError(t, b.Delete(t.Context(), 1))
		after := looking(t.Context(), a, 1)
		time.Sleep(11 * time.Second) // beyond SoftTimeout: there is nothing to be served
		require.Empty(t, before)
		require.Empty(t, after)
		load.returns("", errSource)
		require.Equal(t, view{v: "stale", how: Stale, took: 11 * time.Second}, receive(t, before), "it was there when this one asked")
		s.next(t).returns("new", nil)
		require.Equal(t, "new", receive(t, after).v)
	})
}

// A value that is written by hand has no cost, and ages as any other.
func TestStale_SetValueAgesLikeALoadedOne(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, string]{
			TTL: time.Second, StaleWhileRevalidate: time.Second, Jitter: NoJitter,
			Up: func(context.Context, int) (string, error) { return "loaded", nil },
		})
		require.NoError(t, c.Set(t.Context(), 1, "set"))
		require.Equal(t, view{v: "set", how: Hit}, look(t.Context(), c, 1))
		time.Sleep(time.Second)
		require.Equal(t, view{v: "set", how: Stale}, look(t.Context(), c, 1))
		synctest.Wait()
		require.Equal(t, view{v: "loaded", how: Hit}, look(t.Context(), c, 1))
	})
}
