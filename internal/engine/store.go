package engine

import (
	"context"
	"time"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/script"
)

// storeResults stores the results or gives the leases back, and ends the
// flights. It does so batch by batch, each in one round trip to each server,
// while heartbeats extend the leases of the other batches. A server that takes
// much longer than the others delays only its own flights.
func (r *loadRun) storeResults(all []LoadResult, took time.Duration) {
	r.endLoad()
	var maybeLeased []*keyLoad
	var late []*storeBatch
	store := func(from, to int) {
		if from == to {
			return
		}
		b := r.startStoring(from, to, all, took)
		if over := b.wait(); !over {
			late = append(late, b)
		}
		maybeLeased = append(maybeLeased, b.takeMaybeLeased()...)
	}
	from := 0
	for _, p := range r.leaseBatches {
		store(from, p.from)
		p.stop()
		store(p.from, p.to)
		from = p.to
	}
	store(from, len(r.toLoad))
	if len(late) > 0 {
		r.leaveConvoy() // the other participants must not wait for this run
	}
	for _, b := range late {
		for over := false; !over; {
			over = b.wait()
		}
		maybeLeased = append(maybeLeased, b.takeMaybeLeased()...)
	}
	r.release(maybeLeased)
}

// A storeBatch is some keys of a run whose results are being stored.
type storeBatch struct {
	r           *loadRun
	ctx         context.Context // never ends
	keys        []*keyLoad
	from        int // the index of keys[0] in toLoad
	results     []result
	calls       []*script.Call // one for each key that has a lease
	pending     []int          // for each of calls, the index in keys; -1: the flight has ended
	roundTrips  *convoy.FanOut // of calls; nil: all have ended
	heartbeat   *heartbeat
	maybeLeased []*keyLoad // keys that may still have a lease
}

// startStoring starts to store toLoad[from:to], and ends the flights that have
// no lease.
func (r *loadRun) startStoring(from, to int, all []LoadResult, took time.Duration) *storeBatch {
	keys := r.toLoad[from:to]
	b := &storeBatch{
		r: r, ctx: context.WithoutCancel(r.ctx), keys: keys, from: from, results: make([]result, len(keys)),
		calls: make([]*script.Call, 0, len(keys)), pending: make([]int, 0, len(keys)),
	}
	for i, p := range keys {
		call := r.resultCall(p, all[from+i], took, &b.results[i])
		if !p.unleased {
			b.pending, b.calls = append(b.pending, i), append(b.calls, call)
		}
	}
	r.l.flights.recordWaiters(keys)
	b.heartbeat = b.startHeartbeat()
	for i, p := range keys {
		if p.unleased {
			b.finish(i)
		}
	}
	if patience := min(max(took, minPeerWait), maxPeerWait); len(b.calls) > 1 {
		b.roundTrips = r.sendPerServer(b.ctx, b.calls, true, patience)
	} else {
		r.send(b.ctx, b.calls, true, patience)
	}
	return b
}

// startHeartbeat starts a heartbeat of the leases until calls end them, if that
// takes more than one round trip. Otherwise it returns nil.
func (b *storeBatch) startHeartbeat() *heartbeat {
	trips := 0
	for range script.CallLots(b.calls, convoy.Most) {
		trips++
	}
	if trips < 2 {
		return nil
	}
	l, keys := b.r.l, make([]*keyLoad, len(b.pending))
	for j, i := range b.pending {
		keys[j] = b.keys[i]
	}
	return l.newHeartbeats(b.ctx, len(keys), func(j int) string { return keys[j].key }, func(is []int) ([]*script.Call, func()) {
		some := subsetOrAll(keys, is)
		extends := make([]*script.Call, len(some))
		for j, p := range some {
			extends[j] = l.leases.extendCall(p.key, p.token)
		}
		return extends, nil
	})
}

// wait waits for replies as FanOut.Wait does, and ends the flights that have
// one. It reports whether all have ended.
func (b *storeBatch) wait() (ended bool) {
	if ended = b.roundTrips == nil || b.roundTrips.Wait(b.ctx, 0); ended {
		b.heartbeat.stop()
	}
	var answered []*script.Call
	for j, i := range b.pending {
		if i < 0 {
			continue
		}
		if b.roundTrips != nil {
			if is, _ := b.roundTrips.Ended(j); !is {
				continue
			}
			answered = append(answered, b.calls[j])
		}
		b.pending[j] = -1
		b.takeReply(i, b.calls[j])
		b.finish(i)
	}
	if b.roundTrips != nil {
		b.r.l.breakers.Done(b.ctx, b.roundTrips.Began(), len(answered), func(j int) (string, error) { return answered[j].Key, answered[j].Err })
	}
	return ended
}

// takeReply handles the reply for one key.
func (b *storeBatch) takeReply(i int, call *script.Call) {
	l, p := b.r.l, b.keys[i]
	n, err := intReply(call, int64(StoredStale))
	stores := call.Script != script.Release && call.Script != script.Release.Packed()
	switch {
	case err != nil:
		l.stats.redisFailures.Add(1)
		if stores { // Redis may be out of memory: let other callers try
			l.stats.storeFailures.Add(1)
			b.maybeLeased = append(b.maybeLeased, p)
		}
	case stores && StoreResult(n) == StoredStale && (l.swr == 0 || b.results[i].err != nil), !stores && n == 2:
		// Expire was called since the last proof. A waiter that joined after
		// that proof may have called after Expire returned, so it loads again.
	case n > 0:
		p.entitled = p.waitersAtSend
	case stores:
		l.stats.fenced.Add(1)
	}
}

// finish ends the flight of one key.
func (b *storeBatch) finish(i int) {
	p := b.keys[i]
	// the load stored its value itself, so later proofs do not cover its result
	if waiters := b.r.state.waitersAtStore.Load(); waiters != nil {
		p.entitled = min(p.entitled, (*waiters)[b.from+i])
	}
	p.flight.finish(b.results[i], p.entitled)
	if p.maybeLeased {
		b.maybeLeased = append(b.maybeLeased, p)
	}
}

// takeMaybeLeased returns the maybeLeased keys added since its last call.
func (b *storeBatch) takeMaybeLeased() []*keyLoad {
	some := b.maybeLeased
	b.maybeLeased = nil
	return some
}
