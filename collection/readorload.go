package collection

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/entry"
)

// readResult is the outcome of one read of a collection. err is an error of
// Redis, of the breaker, or errReply.
type readResult[R any] struct {
	value R
	state readState
	err   error
}

// readState describes what a read found. The zero readState says that the
// collection is absent.
type readState struct {
	complete bool        // the complete collection
	foreign  bool        // something that cannot be used
	token    entry.Token // identifies a restored collection that cannot be used
	err      error       // why its elements cannot be decoded; nil: it is not a collection
}

// errReply is the error of a reply that no script gives. A broken proxy may
// give one.
var errReply = errors.New("unexpected reply of a script")

// readOnce reads, unless the breaker rejects k.
func readOnce[K comparable, T, R any](ctx context.Context, h *store[K, T], k string, read func(context.Context) (R, readState, error)) (l readResult[R]) {
	if l.err = h.breakerErr(k); l.err != nil {
		return l
	}
	began := time.Now()
	l.value, l.state, l.err = read(ctx)
	h.report(ctx, k, began, l.err)
	return l
}

// breakerErr returns nil if the breaker allows a command for k, else its error.
// A rejected caller starts a probe in the background if one is due.
func (h *store[K, T]) breakerErr(k string) error {
	c := h.breakers.Of(k)
	err := c.Allow()
	if err != nil {
		c.Probe(h.flights.Spawn, func(ctx context.Context) error {
			_, _, err := h.read(ctx, k)
			return err
		})
	}
	return err
}

// report tells the breaker the outcome of a command for k that began at began.
func (h *store[K, T]) report(ctx context.Context, k string, began time.Time, err error) {
	if errors.Is(err, errReply) {
		err = nil
	}
	h.breakers.Of(k).Done(ctx, began, err)
}

// maxAttempts limits how often a reader restores a collection that is deleted
// during each load.
const maxAttempts = 8

// request describes what a reader wants: an R, taken from the collection of a
// key.
type request[K comparable, T, R any] struct {
	rkey string // the Redis key
	key  K

	read    func(context.Context) (R, readState, error)
	extract func(T) (R, error) // takes it from a loaded collection
	prior   *readResult[R]     // the result of an earlier read; nil: there was none
	part    *participant       // takes part in the round trips of a batch
}

// readOrLoad reads part of a collection, and restores the collection if it is
// absent.
//
// A caller returns the loaded elements without reading Redis again in two cases:
//   - They were stored after the caller came, and no other write came in between.
//     They are then what Redis held at that moment.
//   - Their load began after the caller came, and Redis cannot decide: it is down,
//     the load had no lease, or its result was fenced again.
//
// In all other cases the caller reads Redis again, which also has the writes made
// during the load. If Redis then has nothing, a deletion came in between, and the
// caller joins another flight: it may have come after the deletion.
func readOrLoad[K comparable, T, R any](ctx context.Context, h *store[K, T], r request[K, T, R]) (R, error) {
	var zero R
	var own *loadResult[T] // a load that began after the caller came
	came := h.clock.Add(1)
	defer func() { r.part.leave() }() // unless a flight owns it
	for round := range maxAttempts {
		prior := r.prior
		if r.prior = nil; prior == nil {
			l := readOnce(ctx, h, r.rkey, r.read)
			prior = &l
		}
		s, err := prior.state, prior.err
		if err != nil && redis.HasErrorPrefix(err, "WRONGTYPE") {
			s, err = readState{foreign: true}, nil
		}
		if round == 0 {
			h.stats.countRead(s, err)
		}
		switch {
		case err == nil && s.complete:
			return prior.value, nil
		case ctx.Err() != nil:
			return zero, context.Cause(ctx)
		case h.up == nil && err != nil:
			return zero, err
		case h.up == nil && !s.foreign:
			return zero, nil
		case h.up == nil && s.err != nil:
			return zero, s.err
		case h.up == nil:
			return zero, ErrForeign
		case s.err != nil && own != nil: // another writer keeps writing undecodable entries
			return r.extract(own.value)
		}
		down, with := err != nil, r.part
		started, wait := h.flights.Begin(ctx, r.rkey, func(ctx context.Context) (loadResult[T], error) {
			return h.restore(ctx, r.rkey, r.key, s, down, with)
		})
		if started {
			r.part = nil
		} else {
			r.part.leave()
		}
		got, err := wait()
		switch mine := got.local && got.startedAt > came; {
		case err != nil:
			return zero, err
		case got.unchanged && got.storedAt > came, mine && (down || !got.leased || round > 0 && got.storedAt == 0):
			return r.extract(got.value)
		case mine:
			own = &got
		}
	}
	return zero, errUnsettled
}
