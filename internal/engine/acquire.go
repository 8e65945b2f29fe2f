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

// lateServers is the servers that take much longer to answer than others.
type lateServers struct {
	servers  []string
	notAsked []*keyLoad // keys whose leases were not requested, since their server was late before
}

// A leaseRequest is a request for leases, perhaps from several servers.
type leaseRequest struct {
	keys       []*keyLoad
	calls      []*script.Call // one for each of keys
	roundTrips *convoy.FanOut // of calls
	unanswered []int          // indices of keys without an answer, once some have one; nil: all
}

// unansweredKeys returns the keys that have no answer yet.
func (a *leaseRequest) unansweredKeys() []*keyLoad {
	ps := make([]*keyLoad, len(a.unanswered))
	for i, at := range a.unanswered {
		ps[i] = a.keys[at]
	}
	return ps
}

// acquire requests the leases, in one round trip for each 500, and starts their
// heartbeats at the end of that round trip. It finishes the flights that need
// no load, and adds the keys to load to r.toLoad. It appends the keys leased
// elsewhere to held, and returns the keys to request again. Keys whose server
// is late continue in a run of their own.
func (r *loadRun) acquire(ps []*keyLoad, held []heldElsewhere) ([]*keyLoad, []heldElsewhere) {
	var again []*keyLoad
	for some := range slices.Chunk(ps, convoy.Most) {
		if r.ctx.Err() != nil {
			again = append(again, some...) // they fail in the caller
			continue
		}
		from := len(r.toLoad)
		if a := r.requestLeases(some); len(a.keys) > 0 {
			again, held = r.takeReplies(a, again, held)
		}
		r.startHeartbeats(from)
	}
	return again, held
}

// releaseUnlessSlot gives the leases of toLoad back if no slot is free, and
// returns their keys. Invariant: a run that queues for a slot holds no lease.
// Another process may have a free slot. And if loads of two processes asked for
// each other's keys, leases and slots would wait for each other until the
// timeout.
func (r *loadRun) releaseUnlessSlot() (ps []*keyLoad) {
	keys := r.toLoad
	if len(keys) == 0 || r.trySlot() {
		return nil
	}
	r.toLoad = nil
	for _, p := range keys {
		if p.unleased {
			r.toLoad = append(r.toLoad, p)
		} else {
			ps = append(ps, p)
		}
	}
	r.release(ps)
	tokens := make([]Token, len(ps))
	for i, p := range ps {
		tokens[i], p.previous = p.token, nil
	}
	waitfor.Release(tokens...)
	return ps
}

// requestLeases requests the leases of keys that need one, unless their server
// is late. It adds keys that need no lease to r.toLoad.
func (r *loadRun) requestLeases(ps []*keyLoad) *leaseRequest {
	l, a := r.l, new(leaseRequest)
	for _, p := range ps {
		if p.snapshot.redisErr == nil {
			p.snapshot.redisErr = l.breakerErr(p.key)
		}
		if p.unleased = p.snapshot.redisErr != nil || p.badEntries == maxBadEntries; p.unleased {
			r.toLoad = append(r.toLoad, p)
			continue
		}
		if r.isServerLate(p) {
			r.late.notAsked = append(r.late.notAsked, p)
			continue
		}
		p.token = entry.NewToken()
		a.keys, a.calls = append(a.keys, p), append(a.calls, l.leases.acquireCall(p.key, p.acquireRequest(l.expectedCost())))
	}
	l.flights.recordWaiters(a.keys)
	if len(a.keys) == 0 {
		return a
	}
	a.roundTrips = r.sendPerServer(r.ctx, a.calls, false, maxPeerWait)
	return a
}

// isServerLate reports whether the server of a key is late.
func (r *loadRun) isServerLate(p *keyLoad) bool {
	if len(r.late.servers) == 0 {
		return false
	}
	at, _ := r.l.leases.locate(p.key)
	return slices.Contains(r.late.servers, r.l.breakers.Server(at))
}

// takeReplies handles the replies since its last call. If the other replies
// take much longer, their keys continue in a run of their own. The heartbeat of
// a granted lease starts right after, and no lease waits for that longer than
// it holds.
func (r *loadRun) takeReplies(a *leaseRequest, again []*keyLoad, held []heldElsewhere) ([]*keyLoad, []heldElsewhere) {
	l := r.l
	all := a.roundTrips.Wait(r.ctx, l.leases.ttl/4)
	if all && a.unanswered == nil {
		for i, p := range a.keys {
			again, held = r.takeReply(p, a.calls[i], again, held)
		}
		r.reportReplies(a, a.calls)
		return again, held
	}
	before := a.unanswered
	if before == nil {
		before = make([]int, len(a.keys))
		for i := range before {
			before[i] = i
		}
	}
	a.unanswered = nil
	var took []*script.Call
	for _, i := range before {
		if over, _ := a.roundTrips.Ended(i); !over {
			a.unanswered = append(a.unanswered, i)
			continue
		}
		took = append(took, a.calls[i])
		again, held = r.takeReply(a.keys[i], a.calls[i], again, held)
	}
	r.reportReplies(a, took)
	if !all {
		r.late.servers = append(r.late.servers, a.roundTrips.Late()...)
		// At once: leases granted by then need a heartbeat.
		r.runApart(a.unansweredKeys(), a, nil)
	}
	return again, held
}

// reportReplies reports the end of calls to the breakers, as execBy does.
func (r *loadRun) reportReplies(a *leaseRequest, calls []*script.Call) {
	r.l.breakers.Done(r.ctx, a.roundTrips.Began(), len(calls), func(i int) (string, error) { return calls[i].Key, calls[i].Err })
}

// takeReply handles the reply for one key.
func (r *loadRun) takeReply(p *keyLoad, call *script.Call, again []*keyLoad, held []heldElsewhere) ([]*keyLoad, []heldElsewhere) {
	l := r.l
	p.entitled = p.waitersAtSend
	a, err := acquireReply(p.token, call)
	switch {
	case r.ctx.Err() != nil:
		again = append(again, p) // they fail in the caller
	case err != nil:
		l.stats.redisFailures.Add(1)
		e, ok := errors.AsType[*net.OpError](err)
		p.unleased, p.maybeLeased = true, !ok || e.Op != "dial"
		r.toLoad = append(r.toLoad, p)
	case a.Grant == Granted, a.Grant == GrantedStale:
		r.self.Hold(p.token)
		p.previous = a.Entry
		r.toLoad = append(r.toLoad, p)
	case a.Grant == NotFound && l.isNotFound(p.key, a.Entry):
		p.flight.finish(result{err: ErrNotFound, outcome: OutcomeNotFound}, p.entitled)
	case a.Grant == NotFound: // an entry of another key
		l.rejectEntry(p, a.Entry)
		again = append(again, p)
	case a.Grant == Hit:
		if v, ok := l.decodeAnyAge(p.key, a.Entry, 0); ok {
			p.flight.finish(result{v: v, outcome: p.foundOutcome()}, p.entitled)
		} else {
			l.rejectEntry(p, a.Entry)
			again = append(again, p)
		}
	case l.finishEarly(p, a): // Held or HeldStale
	case l.rejectUndecodable(p, a): // no other process refreshes the value
		again = append(again, p)
	default:
		held = append(held, heldElsewhere{p, a})
	}
	return again, held
}

// runLateApart continues with the keys that were not requested, since their
// server was late, in a run of their own.
func (r *loadRun) runLateApart() {
	if len(r.late.notAsked) > 0 {
		r.runApart(r.late.notAsked, nil, r.late.notAsked)
	}
	r.late = lateServers{}
}

// runApart continues with keys in a run of their own. Their leases were
// requested by a, or are still to be requested.
func (r *loadRun) runApart(ps []*keyLoad, a *leaseRequest, notAsked []*keyLoad) {
	apart := make(map[*keyLoad]bool, len(ps))
	flights := make([]*flight, len(ps))
	for i, p := range ps {
		apart[p], flights[i] = true, p.flight
	}
	r.keys = slices.DeleteFunc(slices.Clone(r.keys), func(p *keyLoad) bool { return apart[p] })
	l, load := r.l, r.load
	l.flights.runApart(func() { l.newRun(flights[0].ctx, load, runShare{}).resume(ps, a, notAsked) }, flights...)
}
