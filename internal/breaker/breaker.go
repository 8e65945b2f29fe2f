// Package breaker tells callers of an unavailable peer not to wait for it.
//
// A Breaker does not make the calls. Callers report how their calls ended, and
// ask whether the next one is worth its time:
//
//	closed ── Failure(true), or Trip consecutive Failure(false) ──> open
//	   ^                                                              │    ^
//	   │                                     Probe, once an interval  │    │ Failure
//	   │                                                              v    │
//	   └────────────── Success, of any caller ───────────────────── half open
package breaker

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Options describe a Breaker.
type Options struct {
	// Trip is the number of consecutive failures that open the breaker if no
	// single one proves that the peer is unavailable. Defaults to 3.
	Trip int

	// Every is the time from the opening, or from the end of a probe, to the
	// next probe. Defaults to 200 ms.
	Every time.Duration

	// Most lets that time grow to a quarter of the time since the opening, up
	// to Most. Each interval is then shortened at random by up to a half, so
	// that the probes of a fleet spread. Defaults to 0: the time does not grow,
	// and has no jitter.
	Most time.Duration

	// Lost is the time after which another probe is granted if the outcome of
	// the last one was not reported. Defaults to 10 s.
	Lost time.Duration
}

// Breaker keeps callers from an unavailable peer. Its zero value is ready, and
// closed. It is safe for concurrent use and must not be copied. Options must
// not change after the first use.
//
// A failure may be reported late, for a call that began before the breaker
// closed again. It counts like any other, and may open the breaker although the
// peer is available. The next probe ends that, so one late failure costs at
// most Every and a probe. There are at most as many late failures as calls in
// flight when the breaker opened. A generation, handed out by Allow and
// returned with Failure, would tell them apart. But every caller would have to
// carry it, including callers that do not ask Allow. Most late failures are
// harmless anyway: one that proves nothing alone is forgotten with the next
// success.
type Breaker struct {
	Options

	// word is written under mu. Its two low bits are the state. While closed,
	// the bits above are the number of consecutive failures. So it is 0 as long
	// as no call fails, and a call then looks at nothing else.
	word   atomic.Uint64
	opened atomic.Int64

	mu    sync.Mutex
	since time.Time // guarded by mu: when it opened
	next  time.Time // guarded by mu: unless closed, no probe is granted before
}

// State is the state of a Breaker.
type State uint8

const (
	// Closed allows every call.
	Closed State = iota

	// Open allows no call.
	Open

	// HalfOpen allows no call while one probe is in flight.
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

// Allow reports whether to call. A caller that calls then reports Success or
// Failure, unless the outcome says nothing about the peer. A rejected caller
// may ask Probe.
//
// Allow is one atomic load.
func (b *Breaker) Allow() bool { return b.word.Load()&stateMask == 0 }

// Success reports that the peer has answered any caller. It closes the breaker
// and forgets earlier failures. If there are none, it is one atomic load.
func (b *Breaker) Success() {
	if b.word.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.word.Store(0)
}

// Failure reports a failed call. If sure is true, the failure proves that the
// peer is unavailable, like a refused connection, and the breaker opens at
// once. Otherwise it opens after Trip consecutive failures.
//
// While the breaker is open, Failure does nothing: calls of callers that did
// not ask must not delay the probe. While it is half open, a failure of any
// caller ends the probe, since the probe would have failed too.
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

// interval returns the time to the next probe of a breaker that has been open
// for the given time. A doubling back-off would reach Most after 4 s, and turn
// an outage of 4 s into one of 6 s. A quarter of the outage never adds more
// than that quarter.
func (b *Breaker) interval(open time.Duration) time.Duration {
	every := positive(b.Every, 200*time.Millisecond)
	if b.Most <= 0 {
		return every
	}
	d := max(every, min(open/4, b.Most))
	return d - rand.N(d/2+1)
}

// Probe reports whether the caller must find out if the peer is available: it
// calls the peer, and then reports Success or Failure. While the breaker is
// open, Probe is true for one caller in each interval, see [Options]. It is
// false while closed, and while a probe is in flight, unless that has exceeded
// Lost.
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

// Wait returns the time until a probe can be granted. It is 0 while closed, and
// while a probe is in flight, which may end at any time.
func (b *Breaker) Wait() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.State() != Open {
		return 0
	}
	return max(time.Until(b.next), 0)
}

// State returns the present state.
func (b *Breaker) State() State { return State(b.word.Load() & stateMask) }

// Opened returns how often the breaker has opened. A failed probe does not
// count.
func (b *Breaker) Opened() int64 { return b.opened.Load() }

// positive returns v if it is positive, otherwise def.
func positive[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}
