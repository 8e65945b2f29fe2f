package loader

import (
	"context"
	"sync"

	"github.com/cachex-go/cachex/internal/convoy"
)

// A Loaded is what a load returns for one key: a value and how long it lives, or
// an error, as Func does.
type Loaded[V any] struct {
	Value V
	Life  Life
	Err   error
}

// A ManyFunc loads the values of several keys, which it is given as indices into
// the keys of the call of GetMany. It returns as many results, in the same order.
type ManyFunc[V any] func(ctx context.Context, keys []int) []Loaded[V]

// An Answer is what GetMany returns for one key.
type Answer[V any] struct {
	Value   V
	Outcome Outcome
	Err     error // as that of Get
}

// room returns n answers that are zero.
func (l *Loader[V]) room(n int) []Answer[V] {
	if spare, ok := l.spare.Get().(*[]Answer[V]); ok && cap(*spare) >= n {
		return (*spare)[:n]
	}
	return make([]Answer[V], n)
}

// mostSpare is how many answers are kept for the next call.
const mostSpare = 1 << 10

// Reuse says that nobody looks at answers of the Loader any more: they are a good part
// of what a call allocates. It need not be called.
func (l *Loader[V]) Reuse(answers []Answer[V]) {
	if cap(answers) <= mostSpare {
		clear(answers)
		l.spare.Put(&answers)
	}
}

// GetMany is Get for several keys, which must differ. What is in Redis comes in one
// round trip, the others are loaded by one call of load, and that is stored in one
// more. Every key has a flight and a lease of its own: who asks for some of them
// at the same time, here or in another process, by GetMany or by Get, shares the
// load of these and no more.
//
// The leases cost a round trip by themselves, unless they are asked for at once
// in place of reading. A Loader does that as long as most keys that it is asked
// for are missing, and at first; but not if StaleWhileRevalidate is set, since who
// is granted a lease on a stale value would have to wait for the load.
//
// If limit is not 0, load is called with one key at a time, by at most so many
// goroutines, and each key is answered by itself; those that are loaded at the same
// time share their round trips.
//
// Every key has its own answer. If load panics or returns too little, the keys
// concerned get an error.
func (l *Loader[V]) GetMany(ctx context.Context, keys []string, limit int, load ManyFunc[V]) []Answer[V] {
	r := l.Reading(ctx, keys, limit, load)
	if limit > 0 || l.swr > 0 || !l.cold.Load() {
		r.read()
	}
	if limit == 0 || len(r.missing) < 2 {
		r.Load(nil)
		return r.Wait()
	}
	c := convoy.New(l.rdb)
	r.Load(c)
	c.Leave()
	return r.Wait()
}

// LookupMany is Find for several keys, in one round trip.
func (l *Loader[V]) LookupMany(ctx context.Context, keys []string) []Answer[V] {
	r := l.Reading(ctx, keys, 0, nil)
	r.read()
	return r.Wait()
}

// fly boards the flights of some keys, or starts them. The runs that it starts are
// parties of r.together.
func (r *Reading[V]) fly(is []int, who boarding) ([]*member[V], []error) {
	l, load, limit, a, c := r.l, r.load, r.limit, r.aim, r.together
	keys, sights := make([]string, len(is)), make([]sight, len(is))
	for j, i := range is {
		if keys[j] = r.keys[i]; r.sights != nil {
			sights[j] = r.sights[i]
		}
	}
	again := func(j int) func(*flight[V]) { return l.flown(keys[j], is[j], sight{}, l.usual(), load) }
	return l.flights.boardAll(r.ctx, keys, who, again, func(n int) func([]*flight[V], []int) {
		if limit > 0 || n == 1 {
			limit := max(limit, 1)
			wave := min(limit, n)
			join(c, wave)
			return func(fs []*flight[V], js []int) {
				apart(fs, js, limit, wave, c, func(j int, with company) func(*flight[V]) {
					return l.flownBy(with, keys[j], is[j], sights[j], a, load)
				})
			}
		}
		join(c, 1)
		return func(fs []*flight[V], js []int) {
			ps := make([]*pursuit[V], len(fs))
			for n, f := range fs {
				ps[n] = l.pursue(f, keys[js[n]], is[js[n]], sights[js[n]], a)
			}
			run := &run[V]{l: l, ctx: fs[0].ctx, load: load, company: company{together: c}}
			run.fly(ps...)
		}
	})
}

// join takes n parties into c, if there is one.
func join(c *convoy.Convoy, n int) {
	for range n {
		if c != nil {
			c.Join()
		}
	}
}

// A company is what a run has in common with others. Its zero value is none.
type company struct {
	together *convoy.Convoy // nil: no others, or we have left them
	place    func()         // gives back one of the places for loads; nil if we have none
}

// loads says that the run begins to load.
func (c *company) loads() {
	if c.together != nil {
		c.together.Load()
	}
}

// loaded says that it has loaded. Its place is free: what it stores may wait for
// others who load.
func (c *company) loaded() {
	if c.together != nil {
		c.together.Loaded()
	}
	c.vacate()
}

// leave leaves the other parties, if there are any.
func (c *company) leave() {
	if c.together != nil {
		c.together.Leave()
		c.together = nil
	}
}

// vacate gives our place back, if we have one.
func (c *company) vacate() {
	if c.place != nil {
		c.place()
		c.place = nil
	}
}

// apart flies flights each by itself, at most limit at a time. For the first wave
// of them parties have joined c.
func apart[V any](fs []*flight[V], js []int, limit, wave int, c *convoy.Convoy, single func(j int, with company) func(*flight[V])) {
	places := make(chan struct{}, limit)
	var wg sync.WaitGroup
	for n, f := range fs {
		places <- struct{}{}
		wg.Add(1)
		if n >= wave {
			join(c, 1)
		}
		f.part(func() {
			defer wg.Done()
			single(js[n], company{together: c, place: func() { <-places }})(f)
		})
	}
	wg.Wait()
}
