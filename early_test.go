package cachex

import (
	"context"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// earlyLaw is the law of XFetch for reads at a fixed rate: how far ahead of its end
// a value is reloaded that is read every ms milliseconds, the last time ms before
// the end, with EarlyRefresh beta and a load of cost milliseconds.
//
// A read with r milliseconds left draws E from the exponential distribution, and
// reloads if E·beta·cost ≥ r. So it does with
//
//	p(r) = exp(-r/(beta·cost))
//
// and the reload is begun by the read with r left if that one does, and none
// before it did:
//
//	P(lead = r) = p(r) · ∏ (1 - p(s)) over the reads s = r+ms, r+2ms … ttl
//
// The element i is P(lead = i·ms); the element 0, that no read did.
func earlyLaw(ttl, ms int, beta, cost float64) []float64 {
	law := make([]float64, ttl/ms+1)
	none := 1.0
	for i := ttl / ms; i > 0; i-- {
		p := math.Exp(-float64(i*ms) / (beta * cost))
		law[i] = none * p
		none *= 1 - p
	}
	law[0] = none
	return law
}

// Eight keys are read a thousand times a second each, by two processes in turn,
// for 100 periods and more: as long as it takes until each was reloaded 100 times.
// Their values live for 500 ms, of which the reads before do not matter: with more
// than that left one reloads with a probability of exp(-10). They load in 50 ms.
//
// Nobody ever waits, as long as the new value is there before the end of the old
// one: if the lead is more than 50 ms. That it is not, in one of 800 periods, has a
// probability of 1.4·10⁻⁶ by the law, which the test works out.
func TestEarlyRefresh_ReadersNeverWaitAndLeadTimesFollowXFetch(t *testing.T) {
	t.Parallel()
	const keys, ttl, cost = 8, 500, 50
	periods := 100
	if raceEnabled { // which takes its time
		periods = 10
	}
	law := earlyLaw(ttl, 1, 1, cost)
	tooLate, mean := 0.0, 0.0
	for lead, p := range law {
		mean += float64(lead) * p
		if lead <= cost {
			tooLate += p
		}
	}
	require.Less(t, float64(keys*periods)*tooLate, 2e-6)

	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		began := make([][]time.Time, keys) // of the loads of each key, one at a time
		spec := Spec[int, string]{
			Key: "k:{id}", TTL: ttl * time.Millisecond, Jitter: NoJitter, EarlyRefresh: 1,
			Up: func(_ context.Context, id int) (string, error) {
				began[id] = append(began[id], time.Now())
				<-time.After(cost * time.Millisecond)
				return strconv.Itoa(len(began[id])), nil
			},
		}
		a, b := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		seen := make([]int, keys) // different values that were read
		last := make([]string, keys)
		for id := range keys {
			require.Equal(t, Loaded, look(t.Context(), a, id).how)
			last[id] = "1"
		}
		start, reads, done := time.Now(), 0, 0
		for tick := 0; done < keys; tick++ {
			c := []*Cache[int, string]{a, b}[tick%2]
			for id := range keys {
				var how Outcome
				v, err := c.Get(WithOutcome(t.Context(), &how), id)
				if err != nil || how != Hit {
					t.Fatalf("a reader of a hot key: %v, %v", how, err)
				}
				if reads++; v != last[id] {
					last[id] = v
					if seen[id]++; seen[id] == periods {
						done++
					}
				}
			}
			time.Sleep(time.Millisecond)
		}
		elapsed := time.Since(start)
		require.NoError(t, a.Close(t.Context()))
		require.NoError(t, b.Close(t.Context()))

		// One load a key and period, and no more: every value that was loaded was
		// read, but for one that was still to come.
		var leads []int
		loads, values := 0, 0
		for id := range keys {
			loads += len(began[id]) - 1 // the first was no reload
			values += seen[id]
			for i := 1; i < len(began[id]); i++ {
				stored := began[id][i-1].Add(cost * time.Millisecond)
				leads = append(leads, int((stored.Add(ttl*time.Millisecond).Sub(began[id][i]))/time.Millisecond))
			}
		}
		require.InDelta(t, values, loads, keys)
		if raceEnabled {
			return // of so few the law says little
		}
		// Nor more often than the law says: a period is the TTL, less the lead, and the
		// load. How many there are has a standard deviation of 0.7 %.
		expected := keys * float64(elapsed/time.Millisecond) / (ttl - mean + cost)
		require.InEpsilon(t, expected, float64(loads), 0.04)
		square, bins := chiSquare(law, leads)
		t.Logf("%d reads, %d loads where %.0f are expected; mean lead %.1f ms; chi-square %.1f in %d bins",
			reads, loads, expected, mean, square, bins)
		require.Less(t, square, chiSquareOfOneInAMillion(bins-1))
	})
}

// chiSquare says by how much leads differ from law, in bins in each of which at
// least 40 are expected.
func chiSquare(law []float64, leads []int) (square float64, bins int) {
	counts := make([]float64, len(law))
	for _, lead := range leads {
		counts[lead]++
	}
	n := float64(len(leads))
	expected, got, left := 0.0, 0.0, n
	for lead, p := range law {
		expected += n * p
		got += counts[lead]
		left -= n * p
		if expected >= 40 && left >= 40 || lead == len(law)-1 {
			square += (got - expected) * (got - expected) / expected
			bins++
			expected, got = 0, 0
		}
	}
	return square, bins
}

// chiSquareOfOneInAMillion is what a chi-square of so many degrees of freedom
// exceeds with a probability of 10⁻⁶, by the approximation of Wilson and Hilferty.
func chiSquareOfOneInAMillion(degrees int) float64 {
	d := 2 / (9 * float64(degrees))
	return float64(degrees) * math.Pow(1-d+4.7534*math.Sqrt(d), 3)
}

// A value that was written has no cost of its own: what loads have cost lately is
// taken for it, and before there was one nothing is reloaded early.
func TestEarlyRefresh_OfASetValueUsesMeasuredLoadTimes(t *testing.T) {
	t.Parallel()
	o := &origin{takes: 100 * time.Millisecond}
	inCrew(t, o, Spec[int, string]{TTL: time.Second, EarlyRefresh: 1}, func(t *testing.T, c *crew) {
		a := c.caches[0]
		untilLoad := func() time.Duration {
			require.NoError(t, a.Set(t.Context(), 1, "set"))
			began, loads := time.Now(), o.loads()
			for o.loads() == loads && time.Since(began) < 2*time.Second {
				got := look(t.Context(), a, 1)
				require.NoError(t, got.err)
				time.Sleep(time.Millisecond)
			}
			return time.Since(began)
		}
		require.GreaterOrEqual(t, untilLoad(), time.Second, "no load has ever been")
		require.Less(t, untilLoad(), time.Second)
	})
}
