package engine

import (
	"context"
	"time"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/script"
)

// land stores what was loaded, or gives the leases back, and ends the flights: one
// portion after the other, each in one round trip to each server, while the leases of the
// others are still renewed. A server that takes much longer than the others holds up its
// own flights only.
func (r *run) land(all []Loaded, took time.Duration) {
	r.loaded()
	var orphans []*pursuit
	var late []*landing
	some := func(from, to int) {
		if from == to {
			return
		}
		d := r.landSome(from, to, all, took)
		if over := d.wait(); !over {
			late = append(late, d)
		}
		orphans = append(orphans, d.taken()...)
	}
	from := 0
	for _, p := range r.portions {
		some(from, p.from)
		p.stop()
		some(p.from, p.to)
		from = p.to
	}
	some(from, len(r.legs))
	if len(late) > 0 {
		r.leave() // the others shall not wait with us
	}
	for _, d := range late {
		for over := false; !over; {
			over = d.wait()
		}
		orphans = append(orphans, d.taken()...)
	}
	r.release(orphans)
}

// A landing is some legs of a run whose results are on their way to Redis.
type landing struct {
	r       *run
	ctx     context.Context // does not end
	legs    []*pursuit
	from    int // where in the legs of the run
	results []result
	calls   []*script.Call // of those that have a lease
	sent    []int          // which of legs that is; -1: it has ended
	trips   *convoy.FanOut // of calls; nil: all have ended
	storing *heartbeat
	orphans []*pursuit // may still have a lease
}

// landSome begins land for the legs from an index to another, and ends those that have no
// lease.
func (r *run) landSome(from, to int, all []Loaded, took time.Duration) *landing {
	legs := r.legs[from:to]
	d := &landing{
		r: r, ctx: context.WithoutCancel(r.ctx), legs: legs, from: from, results: make([]result, len(legs)),
		calls: make([]*script.Call, 0, len(legs)), sent: make([]int, 0, len(legs)),
	}
	for i, p := range legs {
		call := r.conclude(p, all[from+i], took, &d.results[i])
		if !p.alone {
			d.sent, d.calls = append(d.sent, i), append(d.calls, call)
		}
	}
	r.l.flights.marks(legs)
	d.storing = d.keep()
	for i, p := range legs {
		if p.alone {
			d.finish(i)
		}
	}
	if patience := min(max(took, shortestWait), longestWait); len(d.calls) > 1 {
		d.trips = r.sendApart(d.ctx, d.calls, true, patience)
	} else {
		r.send(d.ctx, d.calls, true, patience)
	}
	return d
}

// keep starts a heartbeat of the leases while calls end them, if that takes more than one
// round trip. Else it returns nil.
func (d *landing) keep() *heartbeat {
	trips := 0
	for range script.CallLots(d.calls, convoy.Most) {
		trips++
	}
	if trips < 2 {
		return nil
	}
	l, legs := d.r.l, make([]*pursuit, len(d.sent))
	for j, i := range d.sent {
		legs[j] = d.legs[i]
	}
	return l.beating(d.ctx, len(legs), func(j int) string { return legs[j].key }, func(is []int) ([]*script.Call, func()) {
		some := those(legs, is)
		extends := make([]*script.Call, len(some))
		for j, p := range some {
			extends[j] = l.leases.extending(p.key, p.token)
		}
		return extends, nil
	})
}

// wait waits for the answers as FanOut.Wait does, and ends the flights of which there are
// some. It reports whether all have ended.
func (d *landing) wait() (over bool) {
	if over = d.trips == nil || d.trips.Wait(d.ctx, 0); over {
		d.storing.stop()
	}
	var ended []*script.Call
	for j, i := range d.sent {
		if i < 0 {
			continue
		}
		if d.trips != nil {
			if is, _ := d.trips.Ended(j); !is {
				continue
			}
			ended = append(ended, d.calls[j])
		}
		d.sent[j] = -1
		d.take(i, d.calls[j])
		d.finish(i)
	}
	if d.trips != nil {
		d.r.l.away.Done(d.ctx, d.trips.Began(), len(ended), func(j int) (string, error) { return ended[j].Key, ended[j].Err })
	}
	return over
}

// take takes what Redis has answered for one leg.
func (d *landing) take(i int, call *script.Call) {
	l, p := d.r.l, d.legs[i]
	n, err := number(call, int64(StoredStale))
	stores := call.Script != script.Release && call.Script != script.Release.Packed()
	switch {
	case err != nil:
		l.stats.redisFailures.Add(1)
		if stores { // Redis may be out of memory: let others try
			l.stats.storeFailures.Add(1)
			d.orphans = append(d.orphans, p)
		}
	case stores && Verdict(n) == StoredStale && (l.swr == 0 || d.results[i].err != nil), !stores && n == 2:
		// It was expired by hand since it was proven the last time: who joined after
		// that may have called after Expire has returned, and loads again.
	case n > 0:
		p.proven = p.joined
	case stores:
		l.stats.fenced.Add(1)
	}
}

// finish ends the flight of one leg.
func (d *landing) finish(i int) {
	p := d.legs[i]
	if joined := d.r.attempt.joined.Load(); joined != nil { // the load has stored by itself, and later proofs are none of what it knows
		p.proven = min(p.proven, (*joined)[d.from+i])
	}
	p.f.finish(d.results[i], p.proven)
	if p.orphan {
		d.orphans = append(d.orphans, p)
	}
}

// taken returns the orphans since it was called last.
func (d *landing) taken() []*pursuit {
	some := d.orphans
	d.orphans = nil
	return some
}
