package collection

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/entry"
)

// A look is what a read of a collection has returned. The error is one of Redis, which
// did not answer or was not asked, or an answer that is none.
type look[R any] struct {
	v   R
	s   sight
	err error
}

// A sight is what a reader saw.
type sight struct {
	whole   bool        // the collection
	foreign bool        // something that cannot be used
	token   entry.Token // of a restored collection that cannot be used
	why     error       // it cannot be used; nil: it is not a collection
}

// errReply is the error of a reply that no script gives, but a broken proxy may.
var errReply = errors.New("unexpected reply of a script")

// looked reads, unless Redis is not worth asking.
func looked[K comparable, T, R any](ctx context.Context, h *home[K, T], k string, read func(context.Context) (R, sight, error)) (l look[R]) {
	if l.err = h.refusal(k); l.err != nil {
		return l
	}
	began := time.Now()
	l.v, l.s, l.err = read(ctx)
	h.note(ctx, k, began, l.err)
	return l
}

// refusal returns nil if Redis is worth asking for k, else the error of that. If it is
// time to, it is asked in the background, to find out whether it is back.
func (h *home[K, T]) refusal(k string) error {
	c := h.away.Of(k)
	err := c.Allow()
	if err != nil {
		c.Probe(h.flights.Spawn, func(ctx context.Context) error {
			_, _, err := h.read(ctx, k)
			return err
		})
	}
	return err
}

// note says how a call to Redis for k ended that began at began.
func (h *home[K, T]) note(ctx context.Context, k string, began time.Time, err error) {
	if errors.Is(err, errReply) {
		err = nil
	}
	h.away.Of(k).Done(ctx, began, err)
}

// rounds is how often a reader restores a collection that is deleted meanwhile.
const rounds = 8

// A request is what a reader asks for: something, an R, of the collection of a key.
type request[K comparable, T, R any] struct {
	k   string // the key in Redis
	key K

	read func(context.Context) (R, sight, error)
	from func(T) (R, error) // finds it in what was loaded
	seen *look[R]           // what has been read already; nil: nothing
	with *party             // of the restoration
}

// find reads something of a collection, and restores that if it is not there.
//
// Who came before a collection was stored, to which nothing else had been written, is
// given what was loaded: that is what it was then. For all others it is read again from
// Redis, which has also what was written meanwhile. And if Redis has nothing, since a
// deletion came in between, then the reader asks for another flight, for he may have
// come after the deletion: only a load that began after he came is his without Redis'
// word.
func find[K comparable, T, R any](ctx context.Context, h *home[K, T], r request[K, T, R]) (R, error) {
	var zero R
	var ours *loaded[T] // of a load that began after the caller came
	came := h.ticks.Add(1)
	defer func() { r.with.leave() }() // unless a flight has it
	for round := range rounds {
		seen := r.seen
		if r.seen = nil; seen == nil {
			l := looked(ctx, h, r.k, r.read)
			seen = &l
		}
		s, err := seen.s, seen.err
		if err != nil && redis.HasErrorPrefix(err, "WRONGTYPE") {
			s, err = sight{foreign: true}, nil
		}
		if round == 0 {
			h.stats.saw(s, err)
		}
		switch {
		case err == nil && s.whole:
			return seen.v, nil
		case ctx.Err() != nil:
			return zero, context.Cause(ctx)
		case h.up == nil && err != nil:
			return zero, err
		case h.up == nil && !s.foreign:
			return zero, nil
		case h.up == nil && s.why != nil:
			return zero, s.why
		case h.up == nil:
			return zero, ErrForeign
		case s.why != nil && ours != nil: // somebody keeps writing what cannot be used
			return r.from(ours.v)
		}
		away, with := err != nil, r.with
		own, wait := h.flights.Begin(ctx, r.k, func(ctx context.Context) (loaded[T], error) {
			return h.restore(ctx, r.k, r.key, s, away, with)
		})
		if own {
			r.with = nil
		} else {
			r.with.leave()
		}
		got, err := wait()
		switch mine := got.here && got.began > came; {
		case err != nil:
			return zero, err
		case got.whole && got.stored > came, mine && (away || !got.leased || round > 0 && got.stored == 0):
			return r.from(got.v)
		case mine:
			ours = &got
		}
	}
	return zero, errUnsettled
}
