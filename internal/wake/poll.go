package wake

import (
	"math/rand/v2"
	"time"
)

// Poll says when to read a lease again.
type Poll struct {
	first   time.Duration // when the load should be over
	after   time.Duration // between two reads from then on
	most    time.Duration
	least   time.Duration // the least time that the load should take, from its beginning
	started time.Time     // when Next was first called
}

// NewPoll plans for a load that began at a time of the server's clock and takes
// as long as expect. Recent loads took at least as long as quick. Both are 0 if
// they are unknown.
func NewPoll(began time.Time, expect, quick, lease time.Duration) Poll {
	p := Poll{first: 5 * time.Millisecond, after: 2 * time.Millisecond, most: min(250*time.Millisecond, lease/4)}
	if expect > 0 {
		// The clocks may differ by any amount. That moves the first read to a
		// time between now and expect from now, and decides nothing.
		since := min(max(time.Since(began), 0), expect)
		p.first = max(2*time.Millisecond, expect-since+time.Millisecond)
		p.least = min(expect-since, quick)
	}
	p.first = min(p.first, lease) // its holder may be dead
	return p
}

// Next returns how long to wait before the next read. It gives a live Listener
// time to be first. All waiters of a load expect it to end at the same time, so
// the first read has jitter too. A read before the expected end of the load,
// caused by a message for example, does not change the plan.
func (p *Poll) Next(live bool) time.Duration {
	now := time.Now()
	if p.started.IsZero() {
		p.started = now
	}
	if left := p.first - now.Sub(p.started); left > 0 {
		if live {
			grace := min(max(100*time.Millisecond, p.first/4), 250*time.Millisecond)
			return left + grace + rand.N(grace/2)
		}
		return left + rand.N(min(p.first/4, 50*time.Millisecond)+1)
	}
	d := p.after + rand.N(p.after/4+1)
	p.after = min(p.after*8/5, p.most)
	if live {
		d = max(d, 100*time.Millisecond)
	}
	return min(d, p.most+p.most/4)
}

// gap returns how long a subscription may take so that the load should not have
// ended meanwhile. After the first read, gap returns 0.
func (p *Poll) gap() time.Duration {
	if !p.started.IsZero() {
		return 0
	}
	return p.least / 8
}

// cover returns how long to wait before the read that replaces a message sent
// before the subscription. If the load takes as long as it should, its message
// comes first.
func (p *Poll) cover() time.Duration {
	at := min(p.first+p.first/4+5*time.Millisecond, p.most)
	return max(at-rand.N(at/10+1)-time.Since(p.started), 0)
}
