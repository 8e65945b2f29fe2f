package engine

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/saturate"
	"github.com/cachex-go/cachex/internal/wake"
)

// waitForLease waits until the lease of another holder ends. If it has ended
// the flight, it returns false. Otherwise the snapshot of the keyLoad shows the
// key as it is now.
func (r *loadRun) waitForLease(h heldElsewhere) bool {
	l, p := r.l, h.key
	l.stats.waits.Add(1)
	p.waited = true
	defer r.self.AwaitLease(Token{})
	r.self.AwaitLease(h.holder(l))
	began, poll := time.Now(), l.pollPlan(h.found)
	for {
		p.watch.Until(r.ctx, &poll)
		if r.ctx.Err() != nil {
			r.fail(context.Cause(r.ctx), []*keyLoad{p})
			return false
		}
		if p.flight.hasNoWaiters() { // every waiter has left
			p.flight.finish(result{}, 0)
			return false
		}
		proven := p.flight.waiterCount()
		b, err := l.pollKey(r.ctx, p.key)
		switch p.snapshot = (snapshot{}); {
		case r.ctx.Err() != nil:
			r.fail(context.Cause(r.ctx), []*keyLoad{p})
			return false
		case errors.Is(err, redis.Nil), isWrongType(err):
			return true
		case err != nil:
			l.stats.redisFailures.Add(1)
			p.snapshot.redisErr = err
			return true
		}
		if h, _, ok := l.leases.parse(p.key, b); ok {
			r.self.AwaitLease(leaseHolder(&h))
			switch {
			case h.State == entry.Absent, h.State == entry.Value && h.Till == 0:
			case h.Paused(): // the load failed: the script decides what comes next
				return true
			case l.listener.Hears() && h.Flags&entry.Awaited == 0:
				return true // another holder's lease, which does not know of this wait
			case h.State == entry.Lease && (h.Till == 0 || !l.leases.packed): // still or again held
				if p.suspect = time.Since(began) > saturate.Mul(l.leases.ttl, 2); p.suspect {
					return true
				}
				continue
			case h.Till != 0: // the same; only the server's clock can tell whether it still holds
				if p.leaseIdle(h.Till, l.leases.ttl) {
					return true
				}
				continue
			}
			if h.Token == (Token{}) { // the load failed, and left the stale value
				return true
			}
			if h.Cost > 0 { // to know when to look the next time
				l.recordCost(h.Cost)
			}
		}
		v := l.codec.NewBox()
		switch s := l.decodeEntry(p.key, b, false, time.Now(), v); {
		case s.freshness == undecodable:
			l.rejectEntry(p, b)
		case s.freshness == notFound:
			p.flight.finish(result{err: ErrNotFound, outcome: OutcomeWaited}, proven)
			return false
		case s.freshness.served():
			p.flight.finish(result{v: v, outcome: OutcomeWaited}, proven)
			return false
		}
		return true
	}
}

// leaseIdle reports whether to ask the script about a lease on a stale value,
// whose end is until. It does so once when the lease had no heartbeat for its
// own duration. It does so again, as a suspect, after twice that. The end may
// be hours ahead although the holder is dead. The state is kept between waits:
// the answer to the first question is another wait.
func (p *keyLoad) leaseIdle(until int64, lease time.Duration) bool {
	if until != p.leaseUntil {
		p.leaseUntil, p.leaseSeen, p.askedScript = until, time.Now(), false
	}
	idle := time.Since(p.leaseSeen)
	if p.suspect = idle > saturate.Mul(lease, 2); p.suspect {
		return true
	}
	if idle <= lease || p.askedScript {
		return false
	}
	p.askedScript = true
	return true
}

// watchLease starts to watch for the end of a lease on key.
func (l *Engine) watchLease(key string) *wake.Wait {
	at, _ := l.leases.locate(key)
	return l.listener.Expect(key, at)
}

// pollPlan returns the plan for polling during a load. It takes the duration
// that the holder expects, or the one expected here.
func (l *Engine) pollPlan(a AcquireResult) wake.Poll {
	expect := l.expectedCost()
	if a.Cost > 0 {
		expect = a.Cost
	}
	if a.Grant != Held { // a load that refreshes a stale value: its duration is unknown
		expect = 0
	}
	return wake.NewPoll(a.Began, expect, time.Duration(l.fastestLoad.Load()), l.leases.ttl)
}

// holder returns the token of the lease that is waited for.
func (h *heldElsewhere) holder(l *Engine) Token {
	if h.found.Grant == Held {
		return h.found.holder
	}
	e, _, _ := l.leases.parse(h.key.key, h.found.Entry)
	return leaseHolder(&e)
}

// leaseHolder returns the token of the lease on an entry; zero if there is no
// lease.
func leaseHolder(h *entry.Header) Token {
	if !h.Leased() {
		return Token{}
	}
	return h.Token
}
