package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/circuit"
	"github.com/cachex-go/cachex/internal/entry"
)

// A snapshot is the state of a key, as one read showed it.
type snapshot struct {
	freshness freshness
	token     Token // of the entry; zero if there is no entry
	redisErr  error // why Redis did not answer: load without it; nil if it did
}

// freshness is what an entry can be used for now.
type freshness uint8

const (
	absent          freshness = iota // no entry, a lease, or a value that is too old
	undecodable                      // an unusable entry; it may be overwritten
	fresh                            // a fresh value
	refreshDue                       // a fresh value, but this caller must start a refresh
	stale                            // a value to serve while this caller starts a refresh
	staleRefreshing                  // a value to serve; another caller refreshes it, or a back-off has not ended
	staleBackoff                     // a value to serve only because a load has failed and its back-off has not ended
	errorOnly                        // a value to serve only if no new one can be had
	notFound                         // the remembered absence of a value
)

// served reports whether there is a value that a caller gets at once.
func (k freshness) served() bool { return k >= fresh && k <= staleBackoff }

// readEntry reads a key, sets *v, which must be zero, to its value, and returns
// the snapshot. An errorOnly value sets *v too. If there is no value, *v is
// undefined.
func (l *Engine) readEntry(ctx context.Context, r *getTicket, strict bool, v any) snapshot {
	b, err := r.read(ctx)
	return l.classifyReply(r.key, b, err, strict, time.Now(), v)
}

// classifyReply is like readEntry, for the reply to a GET.
func (l *Engine) classifyReply(key string, b []byte, err error, strict bool, now time.Time, v any) snapshot {
	switch {
	case err == nil:
		return l.decodeEntry(key, b, strict, now, v)
	case errors.Is(err, redis.Nil):
		return snapshot{}
	case isWrongType(err):
		l.stats.decodeFailures.Add(1)
		return snapshot{}
	}
	if errors.Is(err, circuit.ErrAway) {
		l.stats.bypasses.Add(1)
	} else {
		l.stats.redisFailures.Add(1)
	}
	return snapshot{redisErr: err}
}

// decodeEntry sets *v to the value of the entry b, and returns its snapshot. It
// counts unusable entries. If strict is set, a value that should no longer be
// there is absent. Our clock may be wrong, so only callers that then ask a
// script may set it.
func (l *Engine) decodeEntry(key string, b []byte, strict bool, now time.Time, v any) (s snapshot) {
	h, payload, ok := l.leases.parse(key, b)
	s.token = h.Token
	if ok {
		l.limitToSeal(&h, payload, now)
		switch s.freshness = l.freshnessOf(&h, strict, now); {
		case s.freshness == absent,
			s.freshness == notFound && l.decodeNotFound(key, payload) == nil,
			s.freshness != notFound && l.decode(key, payload, v):
			return s
		}
	}
	l.stats.decodeFailures.Add(1)
	if s.freshness = absent; h.State != 0 {
		s.freshness = undecodable
	}
	return s
}

// decodeAnyAge returns a pointer to the value of an entry that a script has
// allowed to be served, whatever our clock shows. A sealed value must not have
// ended longer ago than windows, in milliseconds.
func (l *Engine) decodeAnyAge(key string, b []byte, windows int64) (v any, ok bool) {
	h, payload, ok := l.leases.parse(key, b)
	v = l.codec.NewBox()
	if ok && h.State == entry.Value && !l.sealExpired(payload, time.Now(), windows) && l.decode(key, payload, v) {
		return v, true
	}
	if len(b) > 0 {
		l.stats.decodeFailures.Add(1)
	}
	return nil, false
}

// isNotFound reports whether an entry records that key has no value.
func (l *Engine) isNotFound(key string, b []byte) bool {
	h, payload, ok := l.leases.parse(key, b)
	if ok = ok && h.State == entry.Absent && !l.sealExpired(payload, time.Now(), 0) && l.decodeNotFound(key, payload) == nil; !ok {
		l.stats.decodeFailures.Add(1)
	}
	return ok
}

// freshnessOf returns the freshness of an entry by our clock. If the clock is
// wrong, a value is only loaded again too soon or too late. A script decides,
// by the clock of the server, which caller may load and which values are too
// old to use.
func (l *Engine) freshnessOf(h *entry.Header, strict bool, now time.Time) freshness {
	if h.State == entry.Lease {
		return absent
	}
	left := h.Soft - now.UnixMilli() // milliseconds of freshness
	switch {
	case h.State == entry.Absent:
		if strict && left < -clockSkew || l.leases.packed && left <= 0 || h.Flags&entry.Stale != 0 {
			return absent
		}
		return notFound
	case h.Flags&entry.Stale != 0:
		left = min(left, 0)
	case h.Soft == entry.Forever:
		return fresh
	case left > 0:
		if l.earlyRefresh > 0 && l.drawEarlyRefresh(left, h.Cost) && !l.isLeaseActive(h, now) {
			return refreshDue
		}
		return fresh
	case l.swr+l.sie == 0 && h.Till == 0 && h.Token != Token{} && (left >= -clockSkew || !strict && left >= -maxOverdue) && !l.leases.packed:
		// Redis removes a stale value, by a better clock, unless a lease
		// extends its life or a PERSIST removed its TTL. Redis does not remove
		// packed entries.
		return fresh
	}
	switch age := -left; {
	case age < l.swr && !l.isLeaseActive(h, now):
		return stale
	case age < l.swr:
		return staleRefreshing
	case age >= l.swr+l.sie:
		return absent
	case h.Paused() && l.isLeaseActive(h, now):
		return staleBackoff
	}
	return errorOnly
}

// clockSkew is the largest error, in milliseconds, that the clock of a machine
// may have without being noticed.
const clockSkew = 10_000

// maxOverdue is how many milliseconds, by our clock, a value may outlive its
// end for a caller that does not ask a script. It bounds the life of a value
// that lost its TTL, and exceeds the error of machines' clocks.
const maxOverdue = 3_600_000

// isLeaseActive reports whether a new value is being loaded, or a back-off has
// not ended. A lease or pause that ends later than any can comes from a wrong
// clock; isLeaseActive then returns false, and a script is asked.
func (l *Engine) isLeaseActive(h *entry.Header, now time.Time) bool {
	left := h.Till - now.UnixMilli()
	return left > 0 && left <= l.longestHold
}

// drawEarlyRefresh draws whether a reader refreshes a value that is fresh for
// left milliseconds more. The closer the end, in units of the cost of the load,
// the more likely. This is the optimal probabilistic early expiration, XFetch,
// of Vattani, Chierichetti and Lowenstein, VLDB 2015.
func (l *Engine) drawEarlyRefresh(left int64, cost time.Duration) bool {
	if cost == 0 { // the value was written, or its load took less than a millisecond
		cost = l.expectedCost()
	}
	return rand.ExpFloat64()*l.earlyRefresh*float64(cost) >= float64(left)*float64(time.Millisecond)
}

// decode sets *v to the value in payload, and reports whether payload is valid.
// The codec may be the user's.
func (l *Engine) decode(key string, payload []byte, v any) bool {
	return l.Decode(key, payload, v) == nil
}
