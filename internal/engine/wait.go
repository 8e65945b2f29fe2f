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

// wait waits until the lease of somebody else ends. It reports false if it has
// ended the flight; else what is known of the key now is in the pursuit.
func (r *run) wait(h hold) bool {
	l, p := r.l, h.p
	l.stats.waits.Add(1)
	p.waited = true
	defer r.self.AwaitLease(Token{})
	r.self.AwaitLease(h.holder(l))
	began, poll := time.Now(), l.polling(h.a)
	for {
		p.w.Until(r.ctx, &poll)
		if r.ctx.Err() != nil {
			r.fail(context.Cause(r.ctx), []*pursuit{p})
			return false
		}
		if p.f.empty() { // nobody waits with us any more
			p.f.finish(result{}, 0)
			return false
		}
		proven := p.f.mark()
		b, err := l.poll(r.ctx, p.key)
		switch p.sight = (sight{}); {
		case r.ctx.Err() != nil:
			r.fail(context.Cause(r.ctx), []*pursuit{p})
			return false
		case errors.Is(err, redis.Nil), wrongType(err):
			return true
		case err != nil:
			l.stats.redisFailures.Add(1)
			p.sight.away = err
			return true
		}
		if h, _, ok := l.leases.parse(p.key, b); ok {
			r.self.AwaitLease(holder(&h))
			switch {
			case h.State == entry.Absent, h.State == entry.Value && h.Till == 0:
			case h.Paused(): // the load failed: the script says what now
				return true
			case l.hear.Hears() && h.Flags&entry.Awaited == 0:
				return true // somebody else's lease, who does not know that we wait
			case h.State == entry.Lease && (h.Till == 0 || !l.leases.packed): // still, or again
				if p.suspect = time.Since(began) > saturate.Mul(l.leases.ttl, 2); p.suspect {
					return true
				}
				continue
			case h.Till != 0: // likewise; whether it still holds is for the server's clock to say
				if p.idle(h.Till, l.leases.ttl) {
					return true
				}
				continue
			}
			if h.Token == (Token{}) { // the load failed, and left the stale value
				return true
			}
			if h.Cost > 0 { // so that we know when to look the next time
				l.learn(h.Cost)
			}
		}
		v := l.codec.NewBox()
		switch s := l.parse(p.key, b, false, time.Now(), v); {
		case s.kind == unfit:
			l.misfit(p, b)
		case s.kind == none:
			p.f.finish(result{err: ErrNotFound, how: OutcomeWaited}, proven)
			return false
		case s.kind.served():
			p.f.finish(result{v: v, how: OutcomeWaited}, proven)
			return false
		}
		return true
	}
}

// idle reports whether to ask the script about a lease on a stale value, which ends at
// till: once it has had no heartbeat for the length of one, and again, as a suspect,
// after twice that. Till may be hours ahead though its holder is dead. What is seen is
// kept from one wait to the next: the answer to the first question is another wait.
func (p *pursuit) idle(till int64, lease time.Duration) bool {
	if till != p.till {
		p.till, p.seen, p.asked = till, time.Now(), false
	}
	idle := time.Since(p.seen)
	if p.suspect = idle > saturate.Mul(lease, 2); p.suspect {
		return true
	}
	if idle <= lease || p.asked {
		return false
	}
	p.asked = true
	return true
}

// expectEnd registers an interest in the end of a lease on key.
func (l *Engine) expectEnd(key string) *wake.Wait {
	at, _ := l.leases.place(key)
	return l.hear.Expect(key, at)
}

// polling plans for a load that takes as long as its holder, or else we, expect.
func (l *Engine) polling(a Acquisition) wake.Poll {
	expect := l.expect()
	if a.Cost > 0 {
		expect = a.Cost
	}
	if a.Grant != Held { // of a load that refreshes a stale value, nothing is known
		expect = 0
	}
	return wake.NewPoll(a.Began, expect, time.Duration(l.quick.Load()), l.leases.ttl)
}

// holder returns the token of the lease that is waited for.
func (h *hold) holder(l *Engine) Token {
	if h.a.Grant == Held {
		return h.a.holder
	}
	e, _, _ := l.leases.parse(h.p.key, h.a.Entry)
	return holder(&e)
}

// holder returns the token of the lease on an entry, the zero Token if there is none.
func holder(h *entry.Header) Token {
	if !h.Leased() {
		return Token{}
	}
	return h.Token
}
