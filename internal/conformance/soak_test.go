package conformance

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// soak is how long TestNothingIsStaleOrLostWhateverBecomesOfRedis takes. From a minute
// on it uses all of the machine.
var soak = flag.Duration("soak", 3*time.Second, "how long to use Redis, and to hurt it every few seconds")

// It is one server that is hurt by one fault after the other, at random: such as lose
// nothing that was acknowledged.
func TestNothingIsStaleOrLostWhateverBecomesOfRedis(t *testing.T) {
	t.Parallel()
	var some []fault
	for _, f := range faults {
		if f.where == "" && !f.loses {
			some = append(some, f)
		}
	}
	p := admit(t, fault{}, nil)
	long := *soak >= time.Minute
	if long {
		p.pace = 0
	}
	p.start(t)
	p.does(t, 200)
	d := &diary{began: time.Now(), took: map[string][]time.Duration{}}
	d.weigh()
	for end := d.began.Add(*soak); d.faults() == 0 || time.Now().Before(end); {
		f := some[rand.IntN(len(some))]
		p.does(t, 100)
		began := time.Since(p.h.began)
		p.inflict(t, f)
		d.took[f.name] = append(d.took[f.name], p.recovered(t))
		if time.Since(d.last().at) > *soak/20 {
			d.weigh()
			if long {
				t.Logf("%v; %s", d.last(), p.h.counts())
			}
		}
		if wrong := p.h.verdict(); wrong != "" {
			t.Errorf("after %s, begun at %v", f.name, began)
			break // end prints it
		}
	}
	d.weigh()
	p.end(t)
	t.Logf("%s\n%d goroutines when all is closed", d, runtime.NumGoroutine())
	if long {
		d.requireFlat(t)
	}
}

// A diary is of how a soak went.
type diary struct {
	began   time.Time
	took    map[string][]time.Duration // until Redis was used again, by fault
	weights []weight
}

// A weight is what the process has at a moment, everybody at work.
type weight struct {
	at         time.Time
	after      time.Duration
	heap       float64 // megabytes in use after a collection
	goroutines int
}

func (w weight) String() string {
	return fmt.Sprintf("%v: heap %.1f MB, %d goroutines", w.after.Round(time.Second), w.heap, w.goroutines)
}

func (d *diary) weigh() {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	now := time.Now()
	d.weights = append(d.weights, weight{now, now.Sub(d.began), float64(m.HeapAlloc) / (1 << 20), runtime.NumGoroutine()})
}

func (d *diary) last() weight { return d.weights[len(d.weights)-1] }

func (d *diary) faults() (n int) {
	for _, took := range d.took {
		n += len(took)
	}
	return n
}

// requireFlat fails if the heap is larger in the last quarter than it was in the second
// one. In the first one go-redis opens its connections, and the checker comes to know
// as much as it has to.
func (d *diary) requireFlat(t *testing.T) {
	t.Helper()
	quarter := len(d.weights) / 4
	heap := func(from, to int) float64 {
		least := slices.MinFunc(d.weights[from:to], func(a, b weight) int { return cmp.Compare(a.heap, b.heap) })
		return least.heap
	}
	before, now := heap(quarter, 2*quarter), heap(len(d.weights)-quarter, len(d.weights))
	require.LessOrEqual(t, now, before*1.2+0.5, "the heap grows: megabytes at least, in the second quarter and in the last one")
}

// String returns the figures of docs/reliability.md, and those behind them.
func (d *diary) String() string {
	var b strings.Builder
	for _, w := range d.weights {
		fmt.Fprintln(&b, w)
	}
	var sum, longest time.Duration
	byLongest := func(x, y string) int { return cmp.Compare(slices.Max(d.took[y]), slices.Max(d.took[x])) }
	for _, name := range slices.SortedFunc(maps.Keys(d.took), byLongest) {
		took := d.took[name]
		most, all := slices.Max(took), time.Duration(0)
		for _, one := range took {
			all += one
		}
		sum, longest = sum+all, max(longest, most)
		fmt.Fprintf(&b, "%4d of %s: used again after %v on average, %v at most\n", len(took), name, round(all/time.Duration(len(took))), round(most))
	}
	fmt.Fprintf(&b, "%d faults in %v; Redis is used again after %v on average, %v at most", d.faults(), d.last().after.Round(time.Second), round(sum/time.Duration(d.faults())), round(longest))
	return b.String()
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
