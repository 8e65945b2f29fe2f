package combine

import (
	"sync/atomic"
	"time"
)

// A pace says how many lots are under way before those who come wait for one.
//
// Two are enough where the time of a round trip is spent on system calls, as on
// loopback: while one is on its way to Redis the other is on its way back, and what is
// saved by leaving together is saved for all. But where Redis is a network away, the time
// is spent on the wire, which carries many at once at no cost, and to wait for one of two
// would double it. So as many are let go as keep a processor busy: the time of a round
// trip when nothing else is under way, divided by what it costs to send and to receive.
//
// The time is that of the fastest of a second, since there is no other way to tell the
// wire from a queue: this is how BBR measures it (Cardwell et al., ACM Queue 2016). When
// callers are so many that nobody is ever alone, it stays what it was, unless even so one
// comes back sooner.
type pace struct {
	most    atomic.Int64 // under way; 0: least
	fastest atomic.Int64 // nanoseconds, of those that were alone since since; 0: none
	alone   atomic.Int64 // how many those are
	since   atomic.Int64 // Unix time in nanoseconds
}

const (
	leastAhead = 2
	mostAhead  = 16 // go-redis has ten connections for each processor

	trip   = 30 * time.Microsecond // of processor time for one round trip
	window = time.Second
	enough = 8 // round trips to go by: one or two may have met a pause
)

// ahead returns how many lots are under way before others wait.
func (p *pace) ahead() int64 { return max(leastAhead, p.most.Load()) }

// took takes note of how long one was under way, and whether it was alone. Where several
// do so at the same moment, one of them may be forgotten.
func (p *pace) took(d time.Duration, alone bool) {
	if d <= 0 { // it has panicked
		return
	}
	if most := p.most.Load(); most > leastAhead && int64(d/trip) < most {
		p.most.Store(int64(d / trip))
	}
	if !alone {
		return
	}
	if old := p.fastest.Load(); old == 0 || int64(d) < old {
		p.fastest.Store(int64(d))
	}
	if p.alone.Add(1) < enough {
		return
	}
	now := time.Now().UnixNano()
	if since := p.since.Load(); now-since < int64(window) || !p.since.CompareAndSwap(since, now) {
		return
	}
	p.most.Store(min(p.fastest.Load()/int64(trip), mostAhead))
	p.fastest.Store(0)
	p.alone.Store(0)
}
