package combine

import (
	"sync/atomic"
	"time"
)

// pace says how many lots may be in flight before callers wait for one of them.
//
// Two are enough where system calls take most of a round trip, as on loopback.
// While one lot is on its way to Redis, the other is on its way back, and every
// caller gains from shared system calls. But where Redis is a network away,
// most of the time is spent on the wire, which carries many lots at once at no
// cost. Waiting for one of two lots would then double the time. So pace allows
// as many lots as keep a processor busy. That is the time of a round trip when
// no other one is in flight, divided by the processor time of sending and
// receiving.
//
// The time is the fastest of a second, because nothing else distinguishes the
// wire from a queue. BBR measures it in the same way (Cardwell et al., ACM
// Queue 2016). If there are so many callers that no lot is ever alone, the time
// stays unchanged, unless a lot comes back sooner even so.
type pace struct {
	most    atomic.Int64 // lots in flight; 0 stands for leastAhead
	fastest atomic.Int64 // nanoseconds; of lots that were alone after since; 0 if there are none
	alone   atomic.Int64 // how many lots fastest is of
	since   atomic.Int64 // Unix time in nanoseconds
}

const (
	leastAhead = 2
	mostAhead  = 16 // go-redis has ten connections for each processor

	trip   = 30 * time.Microsecond // of processor time for one round trip
	window = time.Second
	enough = 8 // round trips to rely on: one or two may have met a pause
)

// ahead returns how many lots may be in flight before others wait.
func (p *pace) ahead() int64 { return max(leastAhead, p.most.Load()) }

// took records how long a lot was in flight, and whether it was alone. If
// several calls overlap, one of them may be lost.
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
