package wake

import (
	"math/rand/v2"
	"time"
)

// A Poll says when to look at a lease again.
type Poll struct {
	first time.Duration // when the load should be over
	after time.Duration // between two looks from then on
	most  time.Duration
	began bool
}

// NewPoll plans for a load that began at a time, of the server's clock, and takes as long
// as expect, 0 if nothing is known of it.
func NewPoll(began time.Time, expect, lease time.Duration) Poll {
	p := Poll{first: 5 * time.Millisecond, after: 2 * time.Millisecond, most: min(250*time.Millisecond, lease/4)}
	if expect > 0 {
		// The clocks may differ by anything. That moves the first look between at
		// once and expect from now, and decides nothing.
		since := min(max(time.Since(began), 0), expect)
		p.first = max(2*time.Millisecond, expect-since+time.Millisecond)
	}
	p.first = min(p.first, lease) // its holder may be dead
	return p
}

// Next returns how long to wait before the next look. A live Listener is given
// time to be first. All waiters of a load expect the same end of it, so the first
// look has jitter too.
func (p *Poll) Next(live bool) time.Duration {
	if !p.began {
		p.began = true
		if live {
			grace := min(max(100*time.Millisecond, p.first/4), 250*time.Millisecond)
			return p.first + grace + rand.N(grace/2)
		}
		return p.first + rand.N(min(p.first/4, 50*time.Millisecond)+1)
	}
	d := p.after + rand.N(p.after/4+1)
	p.after = min(p.after*8/5, p.most)
	if live {
		d = max(d, 100*time.Millisecond)
	}
	return min(d, p.most+p.most/4)
}
