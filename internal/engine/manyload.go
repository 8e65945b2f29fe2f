package engine

import (
	"context"
	"slices"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/waitfor"
)

// joinFlights joins the flights of some keys, or starts them. The runs that it
// starts are participants of r.convoy.
func (r *ManyRead) joinFlights(is []int, mode joinMode) ([]*waiter, []error) {
	l, load, a, c := r.l, r.load, r.intent, r.convoy
	keys, snapshots := make([]string, len(is)), make([]snapshot, len(is))
	for j, i := range is {
		if keys[j] = r.keys[i]; r.snapshots != nil {
			snapshots[j] = r.snapshots[i]
		}
	}
	single := r.limit > 0 || len(is) == 1
	again := func(j int) func(*flight) {
		if !single { // the first flight runs with the others
			return l.newKeyRunWith(keys[j], is[j], snapshot{}, l.readIntent(), load)
		}
		return l.newKeyRunWith(keys[j], is[j], snapshots[j], a, load)
	}
	var others []*flight
	waiters, errs := l.flights.joinMany(r.ctx, keys, mode, single, again, func(n int, queued []*flight) func([]*flight, []int) {
		others = append(r.queued, queued...)
		if n > 0 && single {
			also, places := others, r.placePool(mode)
			first := takePlaces(places, n)
			joinConvoy(c, len(first))
			others = nil
			return func(fs []*flight, _ []int) { runEach(slices.Concat(fs, also), places, first, c) }
		}
		if n == 0 {
			return nil
		}
		joinConvoy(c, 1)
		return func(fs []*flight, js []int) {
			ps := make([]*keyLoad, len(fs))
			for n, f := range fs {
				ps[n] = l.newKeyLoad(f, keys[js[n]], is[js[n]], snapshots[js[n]], a)
			}
			l.newRun(fs[0].ctx, load, runShare{convoy: c}).run(ps...)
		}
	})
	r.queued = nil
	if len(others) > 0 {
		places := r.placePool(mode)
		// ends when all have been run, by this call or by others
		l.flights.Spawn(guard.Load, func() error {
			runEach(others, places, nil, nil)
			return nil
		}, func(error) {})
	}
	return waiters, errs
}

// placePool returns the places for loads of single keys. Keys whose server was
// late share them with the others. Loads without waiters have places of their
// own.
func (r *ManyRead) placePool(mode joinMode) *waitfor.Pool {
	if r.limit == 0 {
		return waitfor.NewPool(1)
	}
	if r.places[mode] == nil {
		r.places[mode] = waitfor.NewPool(r.limit)
	}
	return r.places[mode]
}

// takePlaces takes up to n places, as many as are free.
func takePlaces(places *waitfor.Pool, n int) (in []*waitfor.Load) {
	for range n {
		self := new(waitfor.Load)
		if !places.TryEnter(self) {
			break
		}
		in = append(in, self)
	}
	return in
}

// joinConvoy adds n participants to c, unless c is nil.
func joinConvoy(c *convoy.Convoy, n int) {
	for range n {
		if c != nil {
			c.Join()
		}
	}
}

// A runShare is the part of a run in resources that it shares with others. The
// zero value shares nothing.
type runShare struct {
	convoy *convoy.Convoy // nil: there are no others, or the run has left them
	places *waitfor.Pool  // where the run needs a place for its load; nil: it needs none
	place  *waitfor.Load  // the load that holds the place; nil: no place is held
}

// beginLoad records that the run begins to load.
func (c *runShare) beginLoad() {
	if c.convoy != nil {
		c.convoy.Load()
	}
}

// endLoad records that the run has loaded. It frees the place, since storing
// may wait for others that load.
func (c *runShare) endLoad() {
	if c.convoy != nil {
		c.convoy.Loaded()
	}
	c.freePlace()
}

// leaveConvoy leaves the other participants, if there are any.
func (c *runShare) leaveConvoy() {
	if c.convoy != nil {
		c.convoy.Leave()
		c.convoy = nil
	}
}

// freePlace gives the place back, if the run holds one.
func (c *runShare) freePlace() {
	if c.place != nil {
		c.places.Leave(c.place)
		c.place = nil
	}
}

// takePlace waits for a place, if the run needs one and has given it back. A
// load that another load with a place waits for needs none.
func (r *loadRun) takePlace() error {
	if r.places == nil || r.place != nil {
		return nil
	}
	in, err := r.places.Enter(r.ctx, r.self)
	if in {
		r.place = r.self
	}
	return err
}

// runEach runs queued flights one by one, each in a goroutine of its own, when
// there is a place. The first flights have places already, and participants of
// c. A flight that another call has run in the meantime is skipped.
func runEach(fs []*flight, places *waitfor.Pool, first []*waitfor.Load, c *convoy.Convoy) {
	for n, f := range fs {
		var self *waitfor.Load
		if n < len(first) {
			self = first[n]
		} else {
			self = new(waitfor.Load)
			if _, err := places.Enter(context.Background(), self); err != nil {
				return // unreachable: the ctx never ends
			}
			joinConvoy(c, 1)
		}
		if !f.runQueued(runShare{convoy: c, places: places, place: self}) {
			places.Leave(self)
			if c != nil {
				c.Leave()
			}
		}
	}
}
