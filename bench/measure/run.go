package measure

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Row is the result of one variant with so many goroutines.
type Row struct {
	Work       string
	Goroutines int
	Variant    string
	Base       bool          // the baseline of the others
	Control    bool          // the base measured as a variant: its deviation from 1 is noise
	Rate       float64       // calls a second; like the next three, the median of the rounds
	P99        time.Duration // 0: not timed
	Allocs     float64       // per call
	Bytes      float64       // allocated per call
	Speed      Spread        // of the rates, as multiples of the base's
	Slow       Spread        // of the p99s, as multiples of the base's
	Verdicts   []Verdict     // on the work's targets
}

// Spread summarizes the ratios of all rounds.
type Spread struct{ Median, Least, Greatest float64 }

// Verdict is the result of a target of a work.
type Verdict struct {
	Target
	Work    string
	Base    string // the name of the row that Versus selects
	Got     Spread
	Reached bool
}

// Run measures w and returns its rows. For each number of goroutines these are
// the base, its control, and the variants in their order. If a call fails, Run
// returns its error.
//
// In each round every variant runs once, in a random order, between two runs of
// the base. Its ratio is to the mean of these two, so that drift cancels out.
func (w *Work) Run(o Options) ([]Row, error) {
	var rows []Row
	for _, g := range w.Goroutines {
		some, err := w.run(g, o)
		if err != nil {
			return nil, fmt.Errorf("%s, %d goroutines: %w", w.Name, g, err)
		}
		rows = append(rows, some...)
	}
	return rows, nil
}

// series holds the samples of one variant, and its ratios to the base around
// it.
type series struct {
	samples     []sample
	speed, slow []float64
}

func (w *Work) run(g int, o Options) ([]Row, error) {
	variants := append([]Variant{w.Base}, w.Variants...) // the first one is the control
	for _, v := range variants {
		// This opens connections, fills pools, and sends the scripts to the
		// server.
		if _, err := w.loop(v, g, o.Length/4); err != nil {
			return nil, fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	var base []sample
	all := make([]series, len(variants))
	for range o.Rounds {
		before, err := w.loop(w.Base, g, o.Length)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Base.Name, err)
		}
		base = append(base, before)
		for _, i := range rand.Perm(len(variants)) {
			s, err := w.loop(variants[i], g, o.Length)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", variants[i].Name, err)
			}
			after, err := w.loop(w.Base, g, o.Length)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.Base.Name, err)
			}
			all[i].add(before, s, after)
			base = append(base, after)
			before = after
		}
	}
	rows := []Row{w.row(g, w.Base, base)}
	rows[0].Base = true
	for i, v := range variants {
		row := w.row(g, v, all[i].samples)
		row.Control = i == 0
		row.Speed, row.Slow = spread(all[i].speed), spread(all[i].slow)
		if i > 0 {
			row.Verdicts = w.judge(g, i-1, all[1:], row.Allocs)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (s *series) add(before, own, after sample) {
	s.samples = append(s.samples, own)
	s.speed = append(s.speed, own.rate/((before.rate+after.rate)/2))
	if base := (before.p99 + after.p99) / 2; base > 0 && own.p99 > 0 {
		s.slow = append(s.slow, float64(own.p99)/float64(base))
	}
}

func (w *Work) row(g int, v Variant, samples []sample) Row {
	of := func(f func(sample) float64) float64 {
		var xs []float64
		for _, s := range samples {
			xs = append(xs, f(s))
		}
		return median(xs)
	}
	return Row{
		Work: w.Name, Goroutines: g, Variant: v.Name,
		Rate:   of(func(s sample) float64 { return s.rate }),
		P99:    time.Duration(of(func(s sample) float64 { return float64(s.p99) })),
		Allocs: of(func(s sample) float64 { return s.allocs }),
		Bytes:  of(func(s sample) float64 { return s.bytes }),
		Speed:  Spread{1, 1, 1}, Slow: Spread{1, 1, 1},
	}
}

// judge returns the results of the targets of the ith variant with g
// goroutines.
func (w *Work) judge(g, i int, all []series, allocs float64) (verdicts []Verdict) {
	for _, t := range w.Targets {
		if t.Goroutines != g || t.Variant != w.Variants[i].Name {
			continue
		}
		v := Verdict{Target: t, Work: w.Name, Base: w.Base.Name}
		ratios := map[Measure][]float64{Speed: all[i].speed, P99: all[i].slow}[t.What]
		if t.Versus != "" {
			v.Base = t.Versus
			other := all[slices.IndexFunc(w.Variants, func(v Variant) bool { return v.Name == t.Versus })]
			// This divides two ratios of one round, both to the base around
			// them.
			ratios = quotients(ratios, map[Measure][]float64{Speed: other.speed, P99: other.slow}[t.What])
		}
		v.Got = spread(ratios)
		if t.What == Allocs {
			// Rounded to a tenth: the figure includes allocations of the rest
			// of the process.
			allocs := math.Round(10*allocs) / 10
			v.Got = Spread{allocs, allocs, allocs}
		}
		v.Reached = v.Got.Median <= t.Bound
		if t.What == Speed {
			v.Reached = v.Got.Median >= t.Bound
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

func quotients(xs, ys []float64) []float64 {
	q := make([]float64, len(xs))
	for i := range xs {
		q[i] = xs[i] / ys[i]
	}
	return q
}

func spread(xs []float64) Spread {
	if len(xs) == 0 {
		return Spread{}
	}
	return Spread{median(xs), slices.Min(xs), slices.Max(xs)}
}

// median returns the middle value, or the mean of the two middle values. It
// returns 0 if xs is empty.
func median(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	xs = slices.Sorted(slices.Values(xs))
	return (xs[(len(xs)-1)/2] + xs[len(xs)/2]) / 2
}
