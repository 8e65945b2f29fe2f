package engine

import (
	"errors"
	"net"
	"slices"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/internal/waitfor"
)

// A late is the servers that take much longer to answer than others.
type late struct {
	servers []string
	unasked []*pursuit // whose leases were not asked for, since their server was late before
}

// An asking is leases that are asked for, of several servers perhaps.
type asking struct {
	ps    []*pursuit
	calls []*script.Call // of ps
	trips *convoy.FanOut // of calls
	left  []int          // which of ps have no answer yet, once some have; nil: all
}

// open returns the pursuits that have no answer yet.
func (a *asking) open() []*pursuit {
	ps := make([]*pursuit, len(a.left))
	for i, at := range a.left {
		ps[i] = a.ps[at]
	}
	return ps
}

// acquire asks for the leases, in one round trip for each 500, and has them renewed from
// the end of that round trip on. It finishes the flights that need none, adds those that
// are to be loaded to r.legs and those that have to wait to held, and returns those that
// are to ask again. Those whose server is late part from the others.
func (r *run) acquire(ps []*pursuit, held []hold) ([]*pursuit, []hold) {
	var again []*pursuit
	for some := range slices.Chunk(ps, convoy.Most) {
		if r.ctx.Err() != nil {
			again = append(again, some...) // and there, all fail
			continue
		}
		from := len(r.legs)
		if a := r.ask(some); len(a.ps) > 0 {
			again, held = r.take(a, again, held)
		}
		r.keep(from)
	}
	return again, held
}

// yield gives the leases of the legs back if no slot is free, and returns the pursuits that
// had them: a run that queues for a slot holds no lease. Another process may have a slot
// free. And if loads of two processes ask for each other's keys, the leases and the slots
// would wait for each other until the timeout.
func (r *run) yield() (ps []*pursuit) {
	legs := r.legs
	if len(legs) == 0 || r.trySlot() {
		return nil
	}
	r.legs = nil
	for _, p := range legs {
		if p.alone {
			r.legs = append(r.legs, p)
		} else {
			ps = append(ps, p)
		}
	}
	r.release(ps)
	tokens := make([]Token, len(ps))
	for i, p := range ps {
		tokens[i], p.old = p.token, nil
	}
	waitfor.Release(tokens...)
	return ps
}

// ask asks for the leases of those that need one, unless their server is late. It adds
// those that need none to r.legs.
func (r *run) ask(ps []*pursuit) *asking {
	l, a := r.l, new(asking)
	for _, p := range ps {
		if p.sight.away == nil {
			p.sight.away = l.refusal(p.key)
		}
		if p.alone = p.sight.away != nil || p.unfit == maxUnfit; p.alone {
			r.legs = append(r.legs, p)
			continue
		}
		if r.isLate(p) {
			r.late.unasked = append(r.late.unasked, p)
			continue
		}
		p.token = entry.NewToken()
		a.ps, a.calls = append(a.ps, p), append(a.calls, l.leases.acquiring(p.key, p.claim(l.expect())))
	}
	l.flights.marks(a.ps)
	if len(a.ps) == 0 {
		return a
	}
	a.trips = r.sendApart(r.ctx, a.calls, false, longestWait)
	return a
}

// isLate reports whether the server of a pursuit is late.
func (r *run) isLate(p *pursuit) bool {
	if len(r.late.servers) == 0 {
		return false
	}
	at, _ := r.l.leases.place(p.key)
	return slices.Contains(r.late.servers, r.l.away.Server(at))
}

// take takes what has been answered since the last take, and parts from the rest if
// that takes much longer. What is granted has a heartbeat from then on, and no lease waits
// longer for that than it can.
func (r *run) take(a *asking, again []*pursuit, held []hold) ([]*pursuit, []hold) {
	l := r.l
	all := a.trips.Wait(r.ctx, l.leases.ttl/4)
	if all && a.left == nil {
		for i, p := range a.ps {
			again, held = r.takeOne(p, a.calls[i], again, held)
		}
		r.note(a, a.calls)
		return again, held
	}
	before := a.left
	if before == nil {
		before = make([]int, len(a.ps))
		for i := range before {
			before[i] = i
		}
	}
	a.left = nil
	var took []*script.Call
	for _, i := range before {
		if over, _ := a.trips.Ended(i); !over {
			a.left = append(a.left, i)
			continue
		}
		took = append(took, a.calls[i])
		again, held = r.takeOne(a.ps[i], a.calls[i], again, held)
	}
	r.note(a, took)
	if !all {
		r.late.servers = append(r.late.servers, a.trips.Late()...)
		// At once: what is granted by then needs a heartbeat.
		r.partFrom(a.open(), a, nil)
	}
	return again, held
}

// note notes how calls ended, as sendBy does.
func (r *run) note(a *asking, calls []*script.Call) {
	r.l.away.Done(r.ctx, a.trips.Began(), len(calls), func(i int) (string, error) { return calls[i].Key, calls[i].Err })
}

// takeOne takes what was answered for one pursuit.
func (r *run) takeOne(p *pursuit, call *script.Call, again []*pursuit, held []hold) ([]*pursuit, []hold) {
	l := r.l
	p.proven = p.joined
	a, err := acquired(p.token, call)
	switch {
	case r.ctx.Err() != nil:
		again = append(again, p) // and there, all fail
	case err != nil:
		l.stats.redisFailures.Add(1)
		e, ok := errors.AsType[*net.OpError](err)
		p.alone, p.orphan = true, !ok || e.Op != "dial"
		r.legs = append(r.legs, p)
	case a.Grant == Granted, a.Grant == Refresh:
		r.self.Hold(p.token)
		p.old = a.Entry
		r.legs = append(r.legs, p)
	case a.Grant == None && l.none(p.key, a.Entry):
		p.f.finish(result{err: ErrNotFound, how: OutcomeNotFound}, p.proven)
	case a.Grant == None: // it is of another key
		l.misfit(p, a.Entry)
		again = append(again, p)
	case a.Grant == Found:
		if v, ok := l.value(p.key, a.Entry, 0); ok {
			p.f.finish(result{v: v, how: p.found()}, p.proven)
		} else {
			l.misfit(p, a.Entry)
			again = append(again, p)
		}
	case l.settle(p, a): // Held, Stale
	case l.spoilt(p, a): // nobody else sees to a new one
		again = append(again, p)
	default:
		held = append(held, hold{p, a})
	}
	return again, held
}

// partLate has those go on by themselves that were not asked, since their server was late.
func (r *run) partLate() {
	if len(r.late.unasked) > 0 {
		r.partFrom(r.late.unasked, nil, r.late.unasked)
	}
	r.late = late{}
}

// partFrom has pursuits go on together, and without the others. Their leases were asked
// for by a, or are still to be asked for.
func (r *run) partFrom(ps []*pursuit, a *asking, unasked []*pursuit) {
	gone := make(map[*pursuit]bool, len(ps))
	flights := make([]*flight, len(ps))
	for i, p := range ps {
		gone[p], flights[i] = true, p.f
	}
	r.own = slices.DeleteFunc(slices.Clone(r.own), func(p *pursuit) bool { return gone[p] })
	l, load := r.l, r.load
	l.flights.part(func() { l.newRun(flights[0].ctx, load, company{}).finish(ps, a, unasked) }, flights...)
}
