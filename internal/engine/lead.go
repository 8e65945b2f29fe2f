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

// lead loads under the leases, which their heartbeats renew while the load lives. What
// has no lease is loaded with them.
func (r *run) lead() {
	r.loads()
	r.l.flights.begin(r.legs)
	var took time.Duration // written by the load before it sends on the channel
	select {
	case res := <-r.start(&took):
		r.land(res, took)
	case <-r.ctx.Done():
		r.land(r.all(context.Cause(r.ctx)), 0) // the load is left behind
	}
}

// A portion is legs of which the leases were granted in one round trip, and perhaps some
// that have none.
type portion struct {
	from, to int // of the legs of the run
	*heartbeat
}

// keep starts the heartbeat of the leases of the legs from an index on.
func (r *run) keep(from int) {
	l := r.l
	var legs []*pursuit
	for _, p := range r.legs[from:] {
		if !p.alone {
			legs = append(legs, p)
		}
	}
	if len(legs) == 0 {
		return
	}
	r.portions = append(r.portions, portion{from, len(r.legs), l.beating(r.ctx, len(legs), func(i int) string { return legs[i].key }, func(is []int) ([]*script.Call, func()) {
		some := those(legs, is)
		joined := l.flights.marked(some)
		calls := make([]*script.Call, len(some))
		for i, p := range some {
			calls[i] = l.leases.extending(p.key, p.token)
		}
		return calls, func() { l.extended(some, calls, joined) }
	})})
}

// extended takes the answers to a beat. joined are the members when it was sent.
func (l *Engine) extended(legs []*pursuit, calls []*script.Call, joined []int) {
	for i, call := range calls {
		n, err := number(call, 2)
		switch {
		case err != nil:
			l.stats.redisFailures.Add(1)
		case n == 1:
			legs[i].proven = joined[i]
		case n == 2: // expired by hand: the load may have read what was there before
		default: // lost: who comes now would not be answered by this load
			legs[i].f.lose()
		}
	}
}

// still ends the heartbeats.
func (r *run) still() {
	for _, some := range r.portions {
		some.stop()
	}
}

// start starts the load, which takes our slot with it.
func (r *run) start(took *time.Duration) <-chan []Loaded {
	l, slot, self := r.l, r.slot, r.self
	r.slot = false
	is := make([]int, len(r.legs))
	for i, p := range r.legs {
		is[i] = p.i
	}
	at := &attempt{}
	if len(r.legs) == 1 && r.legs[0].old != nil {
		p := r.legs[0]
		at.previous = func() (any, bool) { return l.value(p.key, p.old, l.swr+l.sie) }
	}
	at.lease, r.attempt = r.leaseOf(), at
	legs := r.legs
	at.storing = func() {
		joined := l.flights.marked(legs)
		at.joined.Store(&joined)
	}
	ctx := context.WithValue(r.ctx, attemptKey{}, at)
	began := time.Now()
	return protect(&l.flights, func() []Loaded {
		var res []Loaded
		defer func() {
			*took = time.Since(began)
			l.stats.loads.Add(1)
			l.stats.loadTime.Add(int64(*took))
			if unanswered(res) {
				l.stats.loadFailures.Add(1)
				l.hasten(*took)
			} else {
				l.learn(*took)
			}
			if slot {
				l.slots.Leave(self)
			}
		}()
		res = r.load(ctx, slices.Clone(is))
		if len(res) != len(is) {
			res = r.all(fmt.Errorf("load returned %d results for %d keys", len(res), len(is)))
		}
		if at.unstored.Load() {
			for i := range res {
				res[i].Life = Life{}
			}
		}
		return res
	}, r.all)
}

// leaseOf returns what finds the lease on a key of the load, as it is when that begins.
func (r *run) leaseOf() func(key string) (Lease, bool) {
	legs := r.legs
	index := sync.OnceValue(func() map[string]Lease {
		m := make(map[string]Lease, len(legs))
		for _, p := range legs {
			if !p.alone {
				m[p.key] = Lease{Token: p.token, Entry: p.old, Sent: p.sent}
			}
		}
		return m
	})
	return func(key string) (Lease, bool) {
		l, ok := index()[key]
		return l, ok
	}
}

// all is what a load returns that has the same error for every key.
func (r *run) all(err error) []Loaded {
	res := make([]Loaded, len(r.legs))
	for i := range res {
		res[i].Err = err
	}
	return res
}

// unanswered reports whether a load gave no answer at all.
func unanswered(res []Loaded) bool {
	for _, one := range res {
		if one.Err == nil || errors.Is(one.Err, ErrNotFound) || errors.Is(one.Err, ErrNotModified) {
			return false
		}
	}
	return true
}

// conclude says what the load of a key has come to, and returns the call that
// tells Redis.
func (r *run) conclude(p *pursuit, got Loaded, took time.Duration, res *result) *script.Call {
	l := r.l
	*res = result{v: got.Value, err: blame(r.ctx, got.Err), how: OutcomeLoaded}
	if p.alone {
		res.how = OutcomeBypassed
	}
	unstored := func() *script.Call {
		if p.alone || got.Life != (Life{}) {
			l.stats.storeFailures.Add(1)
		}
		return l.leases.releasing(p.key, p.token, "", 0)
	}
	if errors.Is(res.err, ErrNotModified) {
		v, ok := l.value(p.key, p.old, l.swr+l.sie)
		switch {
		case !ok:
			res.err = errNothingBefore
		case got.Life.check() != nil:
			res.v, res.err = v, nil
			return unstored()
		case l.seal != nil: // the value is sealed with its end, and is sent again
			res.v, res.err = v, nil
		default:
			res.v, res.err = v, nil
			return l.leases.renewing(p.key, p.token, got.Life, p.sent, took)
		}
	}
	switch {
	case errors.Is(res.err, ErrNotFound):
		if res.v = nil; got.Life.check() != nil {
			return l.leases.releasing(p.key, p.token, drop, 0)
		}
		payload, err := l.encodeNone(p.key, got.Life.Fresh)
		if err != nil {
			return l.leases.releasing(p.key, p.token, drop, 0)
		}
		return l.leases.storing(p.key, entry.Absent, p.token, payload, got.Life, p.sent, took)
	case res.err != nil:
		return r.failing(p, res)
	case p.alone || got.Life.check() != nil:
		return unstored()
	}
	payload, err := l.encode(nil, p.key, got.Life.Fresh, res.v)
	if err != nil {
		return unstored()
	}
	return l.leases.storing(p.key, entry.Value, p.token, payload, got.Life, p.sent, took)
}

// failing is conclude for a load that failed. The value that was there stays, and
// is the answer if it may be; but not that of a load which was merely cancelled.
func (r *run) failing(p *pursuit, res *result) *script.Call {
	res.v = nil
	if p.old == nil || errors.Is(res.err, errAbandoned) || errors.Is(res.err, ErrClosed) {
		return r.l.leases.releasing(p.key, p.token, "", 0)
	}
	if r.l.sie > 0 {
		if v, ok := r.l.value(p.key, p.old, r.l.swr+r.l.sie); ok {
			res.v, res.kept = v, true
		}
	}
	pause := time.Duration(float64(p.aim.pause) * (0.8 + 0.4*rand.Float64()))
	return r.l.leases.releasing(p.key, p.token, max(pause.Milliseconds(), 1), longest(p.aim.most))
}

// release gives leases back, whatever ended the flights.
func (r *run) release(ps []*pursuit) {
	var calls []*script.Call
	for _, p := range ps {
		if !p.alone || p.orphan {
			calls = append(calls, r.l.leases.releasing(p.key, p.token, "", 0))
		}
	}
	r.l.send(context.WithoutCancel(r.ctx), calls)
	for _, c := range calls {
		if c.Err != nil {
			r.l.stats.redisFailures.Add(1)
		}
	}
}
