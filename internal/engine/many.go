package engine

import (
	"context"
	"slices"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/waitfor"
)

// fly boards the flights of some keys, or starts them. The runs that it starts are
// parties of r.together.
func (r *ManyRead) fly(is []int, who boarding) ([]*member, []error) {
	l, load, a, c := r.l, r.load, r.aim, r.together
	keys, sights := make([]string, len(is)), make([]sight, len(is))
	for j, i := range is {
		if keys[j] = r.keys[i]; r.sights != nil {
			sights[j] = r.sights[i]
		}
	}
	single := r.limit > 0 || len(is) == 1
	again := func(j int) func(*flight) {
		if !single { // the first flight is flown with others
			return l.flown(keys[j], is[j], sight{}, l.usual(), load)
		}
		return l.flown(keys[j], is[j], sights[j], a, load)
	}
	var others []*flight
	members, errs := l.flights.boardAll(r.ctx, keys, who, single, again, func(n int, queued []*flight) func([]*flight, []int) {
		others = append(r.queued, queued...)
		if n > 0 && single {
			also, places := others, r.pool(who)
			first := enter(places, n)
			join(c, len(first))
			others = nil
			return func(fs []*flight, _ []int) { apart(slices.Concat(fs, also), places, first, c) }
		}
		if n == 0 {
			return nil
		}
		join(c, 1)
		return func(fs []*flight, js []int) {
			ps := make([]*pursuit, len(fs))
			for n, f := range fs {
				ps[n] = l.pursue(f, keys[js[n]], is[js[n]], sights[js[n]], a)
			}
			l.newRun(fs[0].ctx, load, company{together: c}).fly(ps...)
		}
	})
	r.queued = nil
	if len(others) > 0 {
		places := r.pool(who)
		l.flights.Spawn(guard.Load, func() error { // ends when all are flown, by us or by others
			apart(others, places, nil, nil)
			return nil
		}, func(error) {})
	}
	return members, errs
}

// pool returns the places for loads of single keys. Keys whose server was late share
// them with the others. Loads that nobody waits for have places of their own.
func (r *ManyRead) pool(who boarding) *waitfor.Pool {
	if r.limit == 0 {
		return waitfor.NewPool(1)
	}
	if r.places[who] == nil {
		r.places[who] = waitfor.NewPool(r.limit)
	}
	return r.places[who]
}

// enter takes as many of n places as are free.
func enter(places *waitfor.Pool, n int) (in []*waitfor.Load) {
	for range n {
		self := new(waitfor.Load)
		if !places.TryEnter(self) {
			break
		}
		in = append(in, self)
	}
	return in
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
	places   *waitfor.Pool  // where the run needs a place for its load; nil: it needs none
	placed   *waitfor.Load  // who has the place; nil if we have none
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
	if c.placed != nil {
		c.places.Leave(c.placed)
		c.placed = nil
	}
}

// takePlace waits for a place, if we need one and have given it back. A load that
// one with a place waits for goes without.
func (r *run) takePlace() error {
	if r.places == nil || r.placed != nil {
		return nil
	}
	in, err := r.places.Enter(r.ctx, r.self)
	if in {
		r.placed = r.self
	}
	return err
}

// apart flies flights that are queued each by itself, when there is a place. The first of
// them have places, and parties for them have joined c. One that was claimed meanwhile, by
// a caller who asks for it alone or by another call for many, is passed over.
func apart(fs []*flight, places *waitfor.Pool, first []*waitfor.Load, c *convoy.Convoy) {
	for n, f := range fs {
		var self *waitfor.Load
		if n < len(first) {
			self = first[n]
		} else {
			self = new(waitfor.Load)
			if _, err := places.Enter(context.Background(), self); err != nil {
				return // it does not come to that
			}
			join(c, 1)
		}
		if !f.claims(company{together: c, places: places, placed: self}) {
			places.Leave(self)
			if c != nil {
				c.Leave()
			}
		}
	}
}
