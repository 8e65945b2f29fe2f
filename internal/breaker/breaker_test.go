package breaker

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	every = 200 * time.Millisecond
	lost  = 10 * time.Second
	tick  = time.Nanosecond
)

func TestBreaker_ZeroValueAllowsCalls(t *testing.T) {
	t.Parallel()
	var b Breaker
	require.True(t, b.Allow())
	require.False(t, b.Probe())
	require.Equal(t, Closed, b.State())
	b.Success()
	require.Equal(t, Closed, b.State())
	require.Zero(t, b.Opened())
}

func TestFailure_SureOpensAtOnce(t *testing.T) {
	t.Parallel()
	var b Breaker
	b.Failure(true)
	require.False(t, b.Allow())
	require.Equal(t, Open, b.State())
	require.EqualValues(t, 1, b.Opened())
}

func TestFailure_ConsecutiveOnesOpen(t *testing.T) {
	t.Parallel()
	for trip, want := range map[int]int{0: 3, -1: 3, 1: 1, 2: 2, 3: 3, 100: 100} {
		b := Breaker{Options: Options{Trip: trip}}
		for range want - 1 {
			b.Failure(false)
		}
		require.True(t, b.Allow(), trip)
		b.Success()
		for range want - 1 {
			b.Failure(false)
			require.True(t, b.Allow(), "%d: a success lay between", trip)
		}
		b.Failure(false)
		require.False(t, b.Allow(), trip)
		b.Success()
		for range want - 1 {
			b.Failure(false)
			require.True(t, b.Allow(), "%d: those before it opened do not count", trip)
		}
		require.EqualValues(t, 1, b.Opened(), trip)
	}
}

func TestProbe_IsGrantedOnceAnInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		b.Failure(true)
		for range 3 {
			require.False(t, b.Probe(), "it has just failed")
			time.Sleep(every - tick)
			require.False(t, b.Probe())
			require.Equal(t, Open, b.State())
			time.Sleep(tick)
			require.True(t, b.Probe())
			require.Equal(t, HalfOpen, b.State())
			require.False(t, b.Allow())

			time.Sleep(3 * every)
			require.False(t, b.Probe(), "one is out")
			b.Failure(false)
			require.Equal(t, Open, b.State(), "a probe need not be sure")
		}
		require.EqualValues(t, 1, b.Opened())
		time.Sleep(time.Hour)
		require.True(t, b.Probe())
		require.False(t, b.Probe(), "what was not used does not add up")
		b.Success()
		require.Equal(t, Closed, b.State())
		require.True(t, b.Allow())
		require.False(t, b.Probe())
	})
}

func TestProbe_IntervalsFollowTheOptions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := Breaker{Options: Options{Every: time.Minute, Lost: time.Hour}}
		b.Failure(true)
		for _, d := range []time.Duration{time.Minute, time.Hour} {
			time.Sleep(d - tick)
			require.False(t, b.Probe())
			time.Sleep(tick)
			require.True(t, b.Probe())
		}
	})
}

func TestProbe_LostOneIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		b.Failure(true)
		time.Sleep(every)
		for range 3 { // no outcome is reported
			require.True(t, b.Probe())
			time.Sleep(lost - tick)
			require.False(t, b.Probe())
			time.Sleep(tick)
		}
		require.True(t, b.Probe())
		b.Success()
		require.True(t, b.Allow())
	})
}

func TestSuccess_OfAnyCallerCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		b.Failure(true)
		b.Success() // of a write that succeeded
		require.Equal(t, Closed, b.State())
		b.Failure(true)
		time.Sleep(every)
		require.True(t, b.Probe())
		b.Success() // likewise
		require.Equal(t, Closed, b.State())
		b.Failure(false) // of the probe, which the write has overtaken
		require.Equal(t, Closed, b.State())
	})
}

// Writes are sent all the time, and each of them fails.
func TestFailure_OfUnaskedCallsDoesNotDelayTheProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		b.Failure(true)
		began, probes := time.Now(), 0
		for time.Since(began) < time.Minute {
			b.Failure(true)
			if b.Probe() {
				probes++
				b.Failure(true)
			}
			time.Sleep(every / 10)
		}
		require.Equal(t, int(time.Minute/every)-1, probes)
	})
}

func TestFailure_LateOneCostsAtMostOneProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		b.Failure(true)
		time.Sleep(every)
		require.True(t, b.Probe())
		b.Success() // the peer is available again
		for range 2 {
			b.Failure(false) // of calls that began earlier, and ended late
			b.Success()      // of a new call
		}
		b.Failure(false)
		require.True(t, b.Allow(), "those that prove nothing are forgotten")

		for range 5 { // the worst case: one call after the other ends late
			b.Failure(true)
			require.False(t, b.Allow())
			time.Sleep(every)
			require.True(t, b.Probe())
			b.Success()
			require.True(t, b.Allow())
		}
		require.EqualValues(t, 6, b.Opened())
	})
}

func TestWait_IsTheTimeUntilTheNextProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b Breaker
		require.Zero(t, b.Wait())
		b.Failure(true)
		require.Equal(t, every, b.Wait())
		time.Sleep(every - tick)
		require.Equal(t, tick, b.Wait())
		time.Sleep(time.Hour)
		require.Zero(t, b.Wait())
		require.True(t, b.Probe())
		require.Zero(t, b.Wait(), "the probe may end at any time")
		b.Failure(false)
		require.Equal(t, every, b.Wait())
		b.Success()
		require.Zero(t, b.Wait())
	})
}

func TestState_HasAName(t *testing.T) {
	t.Parallel()
	require.Equal(t, "closed", Closed.String())
	require.Equal(t, "open", Open.String())
	require.Equal(t, "half open", HalfOpen.String())
	require.Equal(t, "unknown", State(3).String())
}

func TestBreaker_AllocatesNothing(t *testing.T) {
	b := Breaker{Options: Options{Every: 1}}
	probes := 0
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		b.Success()
		b.Failure(false)
		b.Failure(true)
		for !b.Probe() {
			_, _, _ = b.Allow(), b.State(), b.Opened()
		}
		probes++
		b.Failure(false)
	}))
	require.Positive(t, probes)
}

// At every instant exactly one of many callers gets the probe.
func TestProbe_IsGrantedToOneOfMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers, probes = 16, 50
		var b Breaker
		for range 4 { // one of them reaches Trip
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() { b.Failure(false) })
			}
			wg.Wait()
		}
		require.EqualValues(t, 1, b.Opened())
		for i := range probes {
			time.Sleep(every)
			var granted atomic.Int64
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					runtime.Gosched()
					if b.Probe() {
						granted.Add(1)
						b.Failure(i%2 == 0)
					}
				})
			}
			wg.Wait()
			require.EqualValues(t, 1, granted.Load())
		}
		b.Success()
		require.True(t, b.Allow())
	})
}

// Concurrent use leaves it usable.
func TestBreaker_OpensAndClosesUnderConcurrentUse(t *testing.T) {
	t.Parallel()
	b := Breaker{Options: Options{Every: 1, Lost: 1}}
	for range 20 {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 500 {
					switch rand.N(6) {
					case 0:
						b.Success()
					case 1:
						b.Failure(true)
					case 2:
						b.Failure(false)
					case 3:
						b.Probe()
					default:
						b.Allow()
						require.LessOrEqual(t, b.State(), HalfOpen)
					}
				}
			})
		}
		wg.Wait()
		b.Success()
		require.Equal(t, Closed, b.State())
		b.Failure(true)
		require.Equal(t, Open, b.State())
	}
}

func BenchmarkAllowAndSuccess(b *testing.B) {
	var br Breaker
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if br.Allow() {
				br.Success()
			}
		}
	})
}

func BenchmarkProbeWhileOpen(b *testing.B) {
	br := Breaker{Options: Options{Every: time.Hour}}
	br.Failure(true)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if !br.Allow() {
				br.Probe()
			}
		}
	})
}

// probed returns when a breaker grants probes, relative to the start of an
// outage, if it is asked every ten milliseconds.
func probed(b *Breaker, outage time.Duration) (at []time.Duration) {
	began := time.Now()
	b.Failure(true)
	for time.Since(began) < outage {
		if b.Probe() {
			at = append(at, time.Since(began))
			b.Failure(false)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return at
}

func TestProbe_SlowsDownInALongOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const most = 2 * time.Second
		b := Breaker{Options: Options{Most: most}}
		at := probed(&b, 10*time.Minute)
		require.Less(t, len(at), 10*60*2*3/4, "they stayed as frequent")
		before := time.Duration(0)
		for _, d := range at {
			bound := max(every, min(before/4, most))
			require.LessOrEqual(t, d-before, bound+10*time.Millisecond, "after %v", before)
			require.GreaterOrEqual(t, d-before, bound/2, "after %v", before)
			before = d
		}

		b.Success()
		again := probed(&b, time.Second)
		require.LessOrEqual(t, again[0], every+10*time.Millisecond, "an outage that is over counts no more")
		require.EqualValues(t, 2, b.Opened())
	})
}

func TestProbe_OfAFleetIsSpread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const fleet = 100
		moments := map[time.Duration]int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range fleet {
			wg.Go(func() {
				b := Breaker{Options: Options{Most: 2 * time.Second}}
				for _, d := range probed(&b, 30*time.Second) {
					mu.Lock()
					moments[d/(100*time.Millisecond)]++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for d, n := range moments {
			if d >= 100 { // in the first seconds the intervals are short
				require.Less(t, n, fleet/3, "in the tenth of a second %d", d)
			}
		}
	})
}
