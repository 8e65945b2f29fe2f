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

// A sight is what was seen of a key.
type sight struct {
	kind  kind
	token Token // of the entry; zero if there is none
	away  error // of Redis, which does not answer: load without it
}

// A kind says what an entry is good for now.
type kind uint8

const (
	missing kind = iota // nothing, or a lease, or a value that is too old
	unfit               // an entry that cannot be used; it may be overwritten
	fresh               // a value
	due                 // a fresh value, but this caller is to see to a new one
	stale               // a value to be served, and a new one loaded meanwhile
	loading             // a value to be served, and somebody else sees to a new one, or it is too early for that
	pausing             // a value to be served only since a load has failed and it is too early for another
	old                 // a value to be served only if no new one can be had
	none                // the knowledge that there is no value
)

// served reports whether a value is there that a caller gets at once.
func (k kind) served() bool { return k >= fresh && k <= pausing }

// open reads a key, sets *v, which is zero before, to its value, and returns what is
// known of it. A value that is old is one too. If there is none, *v may be anything.
func (l *Engine) open(ctx context.Context, r *reading, doubt bool, v any) sight {
	b, err := r.read(ctx)
	return l.see(r.key, b, err, doubt, time.Now(), v)
}

// see is open of what a GET has returned.
func (l *Engine) see(key string, b []byte, err error, doubt bool, now time.Time, v any) sight {
	switch {
	case err == nil:
		return l.parse(key, b, doubt, now, v)
	case errors.Is(err, redis.Nil):
		return sight{}
	case wrongType(err):
		l.stats.decodeFailures.Add(1)
		return sight{}
	}
	if errors.Is(err, circuit.ErrAway) {
		l.stats.bypasses.Add(1)
	} else {
		l.stats.redisFailures.Add(1)
	}
	return sight{away: err}
}

// parse sets *v to the value of the entry b, and returns what it is good for. It counts what
// cannot be used. If doubt is set, a value that should not be there any more is
// none. Our clock may be wrong, so that is only for a caller who then asks a
// script.
func (l *Engine) parse(key string, b []byte, doubt bool, now time.Time, v any) (s sight) {
	h, payload, ok := l.leases.parse(key, b)
	s.token = h.Token
	if ok {
		l.limit(&h, payload, now)
		switch s.kind = l.judge(&h, doubt, now); {
		case s.kind == missing,
			s.kind == none && l.decodeNone(key, payload) == nil,
			s.kind != none && l.decode(key, payload, v):
			return s
		}
	}
	l.stats.decodeFailures.Add(1)
	if s.kind = missing; h.State != 0 {
		s.kind = unfit
	}
	return s
}

// value returns a pointer to the value of an entry that a script has found fit to be served,
// whatever our clock says; but of a sealed one only if it has not ended for longer
// than windows, in milliseconds.
func (l *Engine) value(key string, b []byte, windows int64) (v any, ok bool) {
	h, payload, ok := l.leases.parse(key, b)
	v = l.codec.NewBox()
	if ok && h.State == entry.Value && !l.over(payload, time.Now(), windows) && l.decode(key, payload, v) {
		return v, true
	}
	if len(b) > 0 {
		l.stats.decodeFailures.Add(1)
	}
	return nil, false
}

// none reports whether an entry says that key has no value.
func (l *Engine) none(key string, b []byte) bool {
	h, payload, ok := l.leases.parse(key, b)
	if ok = ok && h.State == entry.Absent && !l.over(payload, time.Now(), 0) && l.decodeNone(key, payload) == nil; !ok {
		l.stats.decodeFailures.Add(1)
	}
	return ok
}

// judge says what an entry is good for, as far as our clock can tell. If that is
// wrong, a value is reloaded sooner or later than it should be, and no more: who
// may load, and what is too old for anything, a script decides, by the clock of
// the server.
func (l *Engine) judge(h *entry.Header, doubt bool, now time.Time) kind {
	if h.State == entry.Lease {
		return missing
	}
	left := h.Soft - now.UnixMilli() // milliseconds that it is fresh
	switch {
	case h.State == entry.Absent:
		if doubt && left < -slack || l.leases.packed && left <= 0 || h.Flags&entry.Stale != 0 {
			return missing
		}
		return none
	case h.Flags&entry.Stale != 0:
		left = min(left, 0)
	case h.Soft == entry.Forever:
		return fresh
	case left > 0:
		if l.early > 0 && l.soon(left, h.Cost) && !l.busy(h, now) {
			return due
		}
		return fresh
	case l.swr+l.sie == 0 && h.Till == 0 && h.Token != Token{} && (left >= -slack || !doubt && left >= -overdue) && !l.leases.packed:
		// Redis ends it when it is stale, by a better clock, unless a lease prolongs
		// its life or a PERSIST took its TTL away. Redis does not end packed entries.
		return fresh
	}
	switch age := -left; {
	case age < l.swr && !l.busy(h, now):
		return stale
	case age < l.swr:
		return loading
	case age >= l.swr+l.sie:
		return missing
	case h.Paused() && l.busy(h, now):
		return pausing
	}
	return old
}

// slack is by how many milliseconds the clock of a machine may be wrong before
// anybody notices.
const slack = 10_000

// overdue is by how many milliseconds a value may outlive its end, by our clock,
// for a caller who does not ask a script. It bounds the life of a value that lost
// its TTL, and is more than clocks of machines are wrong.
const overdue = 3_600_000

// busy reports whether somebody is loading a new value, or too early for that. A
// lease or pause that ends later than any does is a clock's fault; then a script
// is asked.
func (l *Engine) busy(h *entry.Header, now time.Time) bool {
	left := h.Till - now.UnixMilli()
	return left > 0 && left <= l.longest
}

// soon reports whether a value that is fresh for left milliseconds more is to be
// loaded again by whoever reads it now: the more likely the nearer its end is,
// in terms of what the load costs. This is the optimal probabilistic early
// expiration, XFetch, of Vattani, Chierichetti and Lowenstein, VLDB 2015.
func (l *Engine) soon(left int64, cost time.Duration) bool {
	if cost == 0 { // of a value that was written; or less than a millisecond
		cost = l.expect()
	}
	return rand.ExpFloat64()*l.early*float64(cost) >= float64(left)*float64(time.Millisecond)
}

// decode reports whether payload is that of a value, and sets *v to it. The codec may be
// the user's.
func (l *Engine) decode(key string, payload []byte, v any) bool {
	return l.Decode(key, payload, v) == nil
}
