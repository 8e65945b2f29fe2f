package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
)

// loadLeased loads under the leases, which heartbeats extend while the load
// runs. Keys without a lease are loaded in the same call.
func (r *loadRun) loadLeased() {
	r.beginLoad()
	r.l.flights.recordStart(r.toLoad)
	var took time.Duration // written by the load before it sends on the channel
	select {
	case res := <-r.startLoad(&took):
		r.storeResults(res, took)
	case <-r.ctx.Done():
		r.storeResults(r.sameError(context.Cause(r.ctx)), 0) // the load is left behind
	}
}

// A leaseBatch is a part of toLoad whose leases were granted in one round trip.
// Some of its keys may have no lease.
type leaseBatch struct {
	from, to int // indices into toLoad
	*heartbeat
}

// startHeartbeats starts the heartbeat of the leases of toLoad[from:].
func (r *loadRun) startHeartbeats(from int) {
	l := r.l
	var leased []*keyLoad
	for _, p := range r.toLoad[from:] {
		if !p.unleased {
			leased = append(leased, p)
		}
	}
	if len(leased) == 0 {
		return
	}
	r.leaseBatches = append(r.leaseBatches, leaseBatch{from, len(r.toLoad), l.newHeartbeats(r.ctx, len(leased), func(i int) string { return leased[i].key }, func(is []int) ([]*script.Call, func()) {
		some := subsetOrAll(leased, is)
		waiters := l.flights.waiterCounts(some)
		calls := make([]*script.Call, len(some))
		for i, p := range some {
			calls[i] = l.leases.extendCall(p.key, p.token)
		}
		return calls, func() { l.takeBeat(some, calls, waiters) }
	})})
}

// takeBeat handles the replies to a heartbeat. waiters are the counts when it
// was sent.
func (l *Engine) takeBeat(keys []*keyLoad, calls []*script.Call, waiters []int) {
	for i, call := range calls {
		n, err := intReply(call, 2)
		switch {
		case err != nil:
			l.stats.redisFailures.Add(1)
		case n == 1:
			keys[i].entitled = waiters[i]
		case n == 2: // Expire was called: the load may have read the value before it
		default: // the lease is lost: this load could not answer later callers
			keys[i].flight.detachLost()
		}
	}
}

// stopHeartbeats stops all heartbeats of the run.
func (r *loadRun) stopHeartbeats() {
	for _, some := range r.leaseBatches {
		some.stop()
	}
}

// startLoad starts the load, which takes over the slot of the run.
func (r *loadRun) startLoad(took *time.Duration) <-chan []LoadResult {
	l, slot, self := r.l, r.hasSlot, r.self
	r.hasSlot = false
	is := make([]int, len(r.toLoad))
	for i, p := range r.toLoad {
		is[i] = p.index
	}
	state := &loadState{}
	if len(r.toLoad) == 1 && r.toLoad[0].previous != nil {
		p := r.toLoad[0]
		state.previous = func() (any, bool) { return l.decodeAnyAge(p.key, p.previous, l.swr+l.sie) }
	}
	state.lease, r.state = r.leaseFinder(), state
	keys := r.toLoad
	state.markStored = func() {
		joined := l.flights.waiterCounts(keys)
		state.waitersAtStore.Store(&joined)
	}
	ctx := context.WithValue(r.ctx, loadStateKey{}, state)
	began := time.Now()
	return goLoad(&l.flights, func() []LoadResult {
		var res []LoadResult
		defer func() {
			*took = time.Since(began)
			l.stats.loads.Add(1)
			l.stats.loadTime.Add(int64(*took))
			if allFailed(res) {
				l.stats.loadFailures.Add(1)
				l.recordFastest(*took)
			} else {
				l.recordCost(*took)
			}
			if slot {
				l.loadSlots.Leave(self)
			}
		}()
		res = r.load(ctx, slices.Clone(is))
		if len(res) != len(is) {
			res = r.sameError(fmt.Errorf("load returned %d results for %d keys", len(res), len(is)))
		}
		if state.unstored.Load() {
			for i := range res {
				res[i].Life = Life{}
			}
		}
		return res
	}, r.sameError)
}

// leaseFinder returns a function that finds the lease on a key of the load, as
// it was when the load began.
func (r *loadRun) leaseFinder() func(key string) (Lease, bool) {
	keys := r.toLoad
	index := sync.OnceValue(func() map[string]Lease {
		m := make(map[string]Lease, len(keys))
		for _, p := range keys {
			if !p.unleased {
				m[p.key] = Lease{Token: p.token, Entry: p.previous, Sent: p.sent}
			}
		}
		return m
	})
	return func(key string) (Lease, bool) {
		l, ok := index()[key]
		return l, ok
	}
}

// sameError returns the results of a load with the same error for every key.
func (r *loadRun) sameError(err error) []LoadResult {
	res := make([]LoadResult, len(r.toLoad))
	for i := range res {
		res[i].Err = err
	}
	return res
}

// allFailed reports whether a load returned neither a value nor ErrNotFound or
// ErrNotModified for any key.
func allFailed(res []LoadResult) bool {
	for _, one := range res {
		if one.Err == nil || errors.Is(one.Err, ErrNotFound) || errors.Is(one.Err, ErrNotModified) {
			return false
		}
	}
	return true
}

// resultCall sets res to the result of the load of a key, and returns the call
// that sends it to Redis.
func (r *loadRun) resultCall(p *keyLoad, got LoadResult, took time.Duration, res *result) *script.Call {
	l := r.l
	*res = result{v: got.Value, err: withCause(r.ctx, got.Err), outcome: OutcomeLoaded}
	if p.unleased {
		res.outcome = OutcomeBypassed
	}
	unstored := func() *script.Call {
		if p.unleased || got.Life != (Life{}) {
			l.stats.storeFailures.Add(1)
		}
		return l.leases.releaseCall(p.key, p.token, "", 0)
	}
	if errors.Is(res.err, ErrNotModified) {
		v, ok := l.decodeAnyAge(p.key, p.previous, l.swr+l.sie)
		switch {
		case !ok:
			res.err = errNothingBefore
		case got.Life.check() != nil:
			res.v, res.err = v, nil
			return unstored()
		case l.sealer != nil: // a sealed value contains its end, so it is sent again
			res.v, res.err = v, nil
		default:
			res.v, res.err = v, nil
			return l.leases.renewCall(p.key, p.token, got.Life, p.sent, took)
		}
	}
	switch {
	case errors.Is(res.err, ErrNotFound):
		if res.v = nil; got.Life.check() != nil {
			return l.leases.releaseCall(p.key, p.token, dropValue, 0)
		}
		payload, err := l.encodeNotFound(p.key, got.Life.Fresh)
		if err != nil {
			return l.leases.releaseCall(p.key, p.token, dropValue, 0)
		}
		return l.leases.storeCall(p.key, entry.Absent, p.token, payload, got.Life, p.sent, took)
	case res.err != nil:
		return r.failedCall(p, res)
	case p.unleased || got.Life.check() != nil:
		return unstored()
	}
	payload, err := l.encode(nil, p.key, got.Life.Fresh, res.v)
	if err != nil {
		return unstored()
	}
	return l.leases.storeCall(p.key, entry.Value, p.token, payload, got.Life, p.sent, took)
}

// failedCall is like resultCall, for a failed load. The previous value stays,
// and is the result if it may be served. If the load was only cancelled, the
// previous value is not the result.
func (r *loadRun) failedCall(p *keyLoad, res *result) *script.Call {
	res.v = nil
	if p.previous == nil || errors.Is(res.err, errAbandoned) || errors.Is(res.err, ErrClosed) {
		return r.l.leases.releaseCall(p.key, p.token, "", 0)
	}
	if r.l.sie > 0 {
		if v, ok := r.l.decodeAnyAge(p.key, p.previous, r.l.swr+r.l.sie); ok {
			res.v, res.servedStale = v, true
		}
	}
	pause := time.Duration(float64(p.intent.pause) * (0.8 + 0.4*rand.Float64()))
	return r.l.leases.releaseCall(p.key, p.token, max(pause.Milliseconds(), 1), longestPause(p.intent.maxPause))
}

// release gives leases back, whatever ended the flights.
func (r *loadRun) release(ps []*keyLoad) {
	var calls []*script.Call
	for _, p := range ps {
		if !p.unleased || p.maybeLeased {
			calls = append(calls, r.l.leases.releaseCall(p.key, p.token, "", 0))
		}
	}
	r.l.exec(context.WithoutCancel(r.ctx), calls)
	for _, c := range calls {
		if c.Err != nil {
			r.l.stats.redisFailures.Add(1)
		}
	}
}
