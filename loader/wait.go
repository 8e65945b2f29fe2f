package loader

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/saturate"
)

// wait waits until the lease of somebody else ends. It reports false if it has
// ended the flight; else what is known of the key now is in the pursuit.
func (r *run[V]) wait(h hold[V]) bool {
	l, p := r.l, h.p
	l.stats.waits.Add(1)
	p.waited = true
	defer r.self.AwaitLease(Token{})
	r.self.AwaitLease(h.holder(l))
	began, poll := time.Now(), newPoll(h.a, l.expect(), l.leases.ttl)
	var till int64     // of the lease on a stale value, when we looked last
	var seen time.Time // when we first saw it
	for {
		timer := time.NewTimer(poll.next(p.w.begin()))
		select {
		case <-p.w.look:
		case <-timer.C:
		case <-r.ctx.Done():
		}
		timer.Stop()
		if r.ctx.Err() != nil {
			r.fail(context.Cause(r.ctx), []*pursuit[V]{p})
			return false
		}
		if p.f.empty() { // nobody waits with us any more
			p.f.finish(result[V]{}, 0)
			return false
		}
		proven := p.f.mark()
		b, err := l.poll(r.ctx, p.key)
		switch p.sight = (sight{}); {
		case r.ctx.Err() != nil:
			r.fail(context.Cause(r.ctx), []*pursuit[V]{p})
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
			case l.leases.hint && h.Flags&entry.Awaited == 0:
				return true // somebody else's lease, who does not know that we wait
			case h.State == entry.Lease && (h.Till == 0 || !l.leases.packed): // still, or again
				if p.suspect = time.Since(began) > saturate.Mul(l.leases.ttl, 2); p.suspect {
					return true
				}
				continue
			case h.Till != 0: // likewise; whether it still holds is for the server's clock to say
				if h.Till != till {
					till, seen = h.Till, time.Now()
				}
				if time.Since(seen) > l.leases.ttl { // no heartbeat for so long
					p.suspect = time.Since(began) > saturate.Mul(l.leases.ttl, 2)
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
		var v V
		switch s := l.parse(p.key, b, false, time.Now(), &v); {
		case s.kind == unfit:
			l.misfit(p, b)
		case s.kind == none:
			p.f.finish(result[V]{err: ErrNotFound, how: OutcomeWaited}, proven)
			return false
		case s.kind.served():
			p.f.finish(result[V]{v: v, how: OutcomeWaited}, proven)
			return false
		}
		return true
	}
}

// holder returns the token of the lease that is waited for.
func (h *hold[V]) holder(l *Loader[V]) Token {
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

// A poll says when to look at a lease again.
type poll struct {
	first time.Duration // when the load should be over
	after time.Duration // between two looks from then on
	most  time.Duration
	began bool
}

// newPoll plans for a load that takes as long as its holder, or else we, expect.
func newPoll(a Acquisition, expect, lease time.Duration) poll {
	p := poll{first: 5 * time.Millisecond, after: 2 * time.Millisecond, most: min(250*time.Millisecond, lease/4)}
	if a.Cost > 0 {
		expect = a.Cost
	}
	if expect > 0 && a.Grant == Held {
		// The clocks may differ by anything. That moves the first look between at
		// once and expect from now, and decides nothing.
		since := min(max(time.Since(a.Began), 0), expect)
		p.first = max(2*time.Millisecond, expect-since+time.Millisecond)
	}
	p.first = min(p.first, lease) // its holder may be dead
	return p
}

// next returns how long to wait before the next look. A live listener is given
// time to be first.
func (p *poll) next(live bool) time.Duration {
	if !p.began {
		p.began = true
		if live {
			return p.first + min(max(100*time.Millisecond, p.first/4), 250*time.Millisecond)
		}
		return p.first
	}
	d := p.after + rand.N(p.after/4+1)
	p.after = min(p.after*8/5, p.most)
	if live {
		d = max(d, 100*time.Millisecond)
	}
	return min(d, p.most+p.most/4)
}
