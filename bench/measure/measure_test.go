package measure

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestQuantilesAreRightToThreePercent(t *testing.T) {
	t.Parallel()
	var h histogram
	require.Zero(t, h.quantile(.99))
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(1) << rand.IntN(34)
		d += time.Duration(rand.Int64N(int64(d)))
		all = append(all, d)
		h.add(d)
	}
	slices.Sort(all)
	for _, share := range []float64{.01, .5, .9, .99, 1} {
		exact := all[max(0, int(share*float64(len(all)))-1)]
		got := h.quantile(share)
		require.GreaterOrEqual(t, got, exact, share)
		require.LessOrEqual(t, float64(got), 1.04*float64(exact)+1, share)
	}
}

func TestEveryDurationHasABucketThatHoldsIt(t *testing.T) {
	t.Parallel()
	last := -1
	for d := time.Duration(0); d < 5000; d++ {
		i := bucket(d)
		require.Contains(t, []int{last, last + 1}, i, d)
		require.LessOrEqual(t, d, most(i))
		if i > 0 {
			require.Greater(t, d, most(i-1))
		}
		last = i
	}
	require.Less(t, bucket(1<<62), len(histogram{}.counts))
	require.Zero(t, bucket(-1), "the clock may stand still, but not go back: this is for the compiler's sake")
}

func TestARatioIsToTheMeanOfTheBaseBeforeAndAfter(t *testing.T) {
	t.Parallel()
	var s series
	s.add(sample{rate: 100, p99: 30}, sample{rate: 300, p99: 10}, sample{rate: 200, p99: 10})
	require.Equal(t, []float64{2}, s.speed)
	require.Equal(t, []float64{0.5}, s.slow)
	s.add(sample{rate: 100}, sample{rate: 50, p99: 10}, sample{rate: 100})
	require.Equal(t, []float64{2, .5}, s.speed)
	require.Len(t, s.slow, 1, "what is not timed has no ratio")
}

func TestExactlySoManyGoroutinesCallAtATime(t *testing.T) {
	t.Parallel()
	for _, g := range []int{1, 3, 17} {
		var inside, most atomic.Int64
		together := make(chan struct{}) // closed when g goroutines are inside
		call := func(context.Context) error {
			n := inside.Add(1)
			defer inside.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			if n == int64(g) {
				select {
				case <-together:
				default:
					close(together)
				}
			}
			<-together
			return nil
		}
		var w Work
		s, err := w.loop(Variant{Call: call}, g, 1)
		require.NoError(t, err)
		require.EqualValues(t, g, most.Load())
		require.Positive(t, s.p99, "every call is timed")
	}
}

func TestCallsHaveACtxThatCanEndWhereTheWorkSaysSo(t *testing.T) {
	t.Parallel()
	for _, ends := range []bool{false, true} {
		var seen atomic.Bool
		w := Work{Ends: ends}
		_, err := w.loop(Variant{Call: func(ctx context.Context) error {
			seen.Store(ctx.Done() != nil)
			return nil
		}}, 1, 1)
		require.NoError(t, err)
		require.Equal(t, ends, seen.Load())
	}
}

// Not parallel: the allocations of the whole process are counted.
func TestARowHasWhatItsVariantAllocatesAndNotTheOthers(t *testing.T) {
	var sink [3]*[64]byte
	w := Work{
		Name: "w", Goroutines: []int{1},
		Base: Variant{Name: "base", Burst: 1000, Call: func(context.Context) error { return nil }},
		Variants: []Variant{{Name: "three", Burst: 1000, Call: func(context.Context) error {
			for i := range sink {
				sink[i] = new([64]byte)
			}
			return nil
		}}},
	}
	rows, err := w.Run(Options{Rounds: 3, Length: 2 * time.Millisecond})
	require.NoError(t, err)
	require.Len(t, rows, 3)
	require.Equal(t, []string{"base", "base", "three"}, []string{rows[0].Variant, rows[1].Variant, rows[2].Variant})
	require.True(t, rows[1].Control)
	require.InDelta(t, 0, rows[1].Allocs, 0.5)
	require.InDelta(t, 3, rows[2].Allocs, 0.5)
	require.InDelta(t, 192, rows[2].Bytes, 32)
	require.Zero(t, rows[2].P99, "its calls come in bursts")
}

func TestWhatIsSettledIsSettledOnceAfterAllCalls(t *testing.T) {
	t.Parallel()
	var calls, settled atomic.Int64
	var w Work
	v := Variant{
		Call: func(context.Context) error {
			require.Zero(t, settled.Load())
			calls.Add(1)
			return nil
		},
		Settle: func() error {
			settled.Add(1)
			return nil
		},
	}
	_, err := w.loop(v, 4, time.Millisecond)
	require.NoError(t, err)
	require.EqualValues(t, 1, settled.Load())
	require.Positive(t, calls.Load())
}

func TestAnErrorSaysWhoseItIs(t *testing.T) {
	t.Parallel()
	wrong := errors.New("wrong")
	fine := Variant{Name: "fine", Call: func(context.Context) error { return nil }}
	fails := Variant{Name: "fails", Call: func(context.Context) error { return wrong }}
	unsettled := fine
	unsettled.Name, unsettled.Settle = "unsettled", func() error { return wrong }
	for _, row := range []struct {
		w    Work
		want string
	}{
		{Work{Base: fine, Variants: []Variant{fails}}, "w, 2 goroutines: fails: wrong"},
		{Work{Base: fails}, "w, 2 goroutines: fails: wrong"},
		{Work{Base: fine, Variants: []Variant{unsettled}}, "w, 2 goroutines: unsettled: wrong"},
	} {
		row.w.Name, row.w.Goroutines = "w", []int{2}
		_, err := row.w.Run(Options{Rounds: 1, Length: time.Microsecond})
		require.ErrorIs(t, err, wrong)
		require.EqualError(t, err, row.want)
	}
}

func TestTargetsAreJudgedByMedians(t *testing.T) {
	t.Parallel()
	w := Work{
		Name: "w", Base: Variant{Name: "base"}, Variants: []Variant{{Name: "a"}, {Name: "b"}},
		Targets: []Target{
			{Variant: "a", Goroutines: 8, Bound: 3},
			{Variant: "a", Goroutines: 8, Bound: 3.1},
			{Variant: "a", Goroutines: 8, What: P99, Bound: 0.5},
			{Variant: "a", Goroutines: 8, What: P99, Bound: 0.4},
			{Variant: "a", Goroutines: 8, What: Allocs, Bound: 7},
			{Variant: "a", Goroutines: 8, What: Allocs, Bound: 6.9},
			{Variant: "a", Goroutines: 8, Versus: "b", Bound: 2},
			{Variant: "a", Goroutines: 1, Bound: 100},
			{Variant: "b", Goroutines: 8, Bound: 100},
		},
	}
	all := []series{
		{speed: []float64{1, 3, 9}, slow: []float64{.5, .1, .9}},
		{speed: []float64{1, 1.5, 1}, slow: []float64{1, 1, 1}},
	}
	got := w.judge(8, 0, all, 7.003)
	var reached []bool
	for _, v := range got {
		reached = append(reached, v.Reached)
		require.Equal(t, "w", v.Work)
	}
	require.Equal(t, []bool{true, false, true, false, true, false, true}, reached)
	require.Equal(t, Spread{3, 1, 9}, got[0].Got)
	require.Equal(t, "base", got[0].Base)
	require.Equal(t, Spread{2, 1, 9}, got[6].Got, "of the ratios of one round")
	require.Equal(t, "b", got[6].Base)
	require.Equal(t, 3.5, median([]float64{9, 1, 4, 3}))
	require.Zero(t, median(nil))
}
