// Package breaker tells callers of a peer that is away not to wait for it.
//
// A Breaker does not make the calls. It is told how they ended, and says whether
// the next one is worth its time:
//
//	closed ── Failure(true), or Trip times Failure(false) in a row ──> open
//	   ^                                                              │    ^
//	   │                                       Probe, once an interval│    │Failure
//	   │                                                              v    │
//	   └──────────────── Success, whoever reports it ──────────────── half open
package breaker

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Options describe a Breaker.
type Options struct {
	// Trip is how many failures in a row open the breaker, each of which proves
	// nothing by itself. Defaults to 3.
	Trip int

	// Every is how long after it opened, and after a probe ended, the next probe
	// is granted. Defaults to 200 ms.
	Every time.Duration

	// Most lets that grow to a quarter of the time for which the breaker has been
	// open, up to Most. Each interval is then shortened by up to a half at random,
	// so that the probes of a fleet spread. Defaults to 0: neither.
	Most time.Duration

	// Lost is how long after a probe was granted the next one is, if nobody has
	// said how the first one ended. Defaults to 10 s.
	Lost time.Duration
}

// A Breaker keeps callers from a peer that is away. Its zero value is ready, and
// closed. It is safe for concurrent use and must not be copied; Options must not
// change after the first use.
//
// A failure may come late: that of a call which began before the breaker closed
// again. It counts like any other, and may open the breaker although the peer is
// back. That ends with the next probe, so one late failure costs at most Every
// and a probe, and there are no more of them than there were calls under way when
// the breaker opened. A generation that Allow hands out and Failure takes back
// would tell them apart. But every caller would have to carry it, those too who
// do not ask Allow, and most late failures do no harm: one that proves nothing by
// itself is forgotten with the next success.
type Breaker struct {
	Options

	// word is written under mu. It has the state in its two low bits, and above
	// them, while closed, how many failures there have been in a row. So it is 0 as
	// long as all is well, and that is all that a call then looks at.
	word   atomic.Uint64
	opened atomic.Int64

	mu    sync.Mutex
	since time.Time // guarded by mu: when it opened
	next  time.Time // guarded by mu: not before that is a probe granted, unless closed
}

// A State is what a Breaker does with calls.
type State uint8

const (
	// Closed lets every call through.
	Closed State = iota

	// Open lets none through.
	Open

	// HalfOpen lets none through while one probe is out.
	HalfOpen
)

const (
	stateBits = 2
	stateMask = 1<<stateBits - 1
)

// String returns the state in words.
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case Open:
		return "open"
	case HalfOpen:
		return "half open"
	default:
		return "unknown"
	}
}

// Allow reports whether to call. Whoever does then calls Success or Failure,
// unless the call says nothing about the peer.
//
// It is one atomic load. Whoever is told not to call may ask Probe.
func (b *Breaker) Allow() bool { return b.word.Load()&stateMask == 0 }

// Success says that the peer has answered, to anybody. It closes the breaker and
// forgets the failures before it. While there are none of these it is one atomic
// load.
func (b *Breaker) Success() {
	if b.word.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.word.Store(0)
}

// Failure says that a call has failed. If that makes it sure that the peer is
// away, as a refused connection does, the breaker opens at once, else if it is
// the last of Trip failures in a row.
//
// While open it does nothing: what fails without having asked, and however often,
// must not put off the probe. While a probe is out it ends the probe, whoever
// reports it: it says the same as the probe would have.
func (b *Breaker) Failure(sure bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	word := b.word.Load()
	switch State(word & stateMask) {
	case Closed:
		failures := word>>stateBits + 1
		if !sure && failures < uint64(positive(b.Trip, 3)) {
			b.word.Store(failures << stateBits)
			return
		}
		b.opened.Add(1)
		b.since = time.Now()
	case Open:
		return
	}
	b.word.Store(uint64(Open))
	now := time.Now()
	b.next = now.Add(b.interval(now.Sub(b.since)))
}

// interval returns the time to the next probe of a breaker that has been open for
// so long. A back-off that doubles would reach Most after 4 s, and make an outage
// of 4 s one of 6 s; a quarter of the outage is never more than that.
func (b *Breaker) interval(open time.Duration) time.Duration {
	every := positive(b.Every, 200*time.Millisecond)
	if b.Most <= 0 {
		return every
	}
	d := max(every, min(open/4, b.Most))
	return d - rand.N(d/2+1)
}

// Probe reports whether the caller is to find out if the peer is back: to call
// it, and then to say Success or Failure. While the breaker is open it is true for
// one caller in each interval, see Options. It is false while a probe is out, unless
// that has taken Lost, and while closed.
func (b *Breaker) Probe() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.Allow() || now.Before(b.next) {
		return false
	}
	b.word.Store(uint64(HalfOpen))
	b.next = now.Add(positive(b.Lost, 10*time.Second))
	return true
}

// Wait returns how long it is until a probe can be granted. It is 0 while closed,
// and while a probe is out, whose end may come at any time.
func (b *Breaker) Wait() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.State() != Open {
		return 0
	}
	return max(time.Until(b.next), 0)
}

// State returns the state at the moment.
func (b *Breaker) State() State { return State(b.word.Load() & stateMask) }

// Opened returns how often the breaker has opened. A probe that failed does not
// count.
func (b *Breaker) Opened() int64 { return b.opened.Load() }

// positive returns v, or the default in its place if there is nothing sensible.
func positive[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}
