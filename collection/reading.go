package collection

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/circuit"
	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// BatchRead makes the collection a batch.Source. It is for package batch, which calls
// got with what Get would return for each key. What is absent is restored as by Get,
// all side by side, in the round trips of the batch, and holds up nothing that is there.
func (h *home[K, T]) BatchRead(ctx context.Context, keys []K, got func(i int, v T, err error)) batch.Reading {
	return &reading[K, T]{h: h, ctx: ctx, keys: keys, got: got}
}

// A reading is the part that a collection has in a Batch. It takes part in a Convoy.
type reading[K comparable, T any] struct {
	h             *home[K, T]
	ctx           context.Context // of the batch, which the reading does not outlive
	keys          []K
	got           func(int, T, error)
	asks          []asked
	missing       []missing[T]
	away          error // why Redis was not asked, or did not answer
	taken, loaded bool
	over          chan struct{} // closed when what was missing has been answered
}

var _ convoy.Loading = (*reading[int, int])(nil)

// An asked is one key that Redis is asked for.
type asked struct {
	i   int // in keys
	k   string
	cmd redis.Cmder // nil: it is not
	err error       // why not
}

// A missing is one key that was not there, and what was seen of it; nil: nothing was.
type missing[T any] struct {
	i    int
	k    string
	seen *look[T]
}

// Client returns the client of the collection.
func (r *reading[K, T]) Client() redis.UniversalClient { return r.h.rdb }

// Ask queues the command of each key, but not those for which Redis is not worth
// asking.
func (r *reading[K, T]) Ask(ctx context.Context, p redis.Pipeliner) {
	for i, key := range r.keys {
		k, err := r.h.rendered(key)
		if err != nil {
			var zero T
			r.got(i, zero, r.h.fail("get", k, err))
			continue
		}
		a := asked{i: i, k: k, err: r.h.refusal(k)}
		if a.err == nil {
			a.cmd = r.h.ask(ctx, p, k)
		}
		r.asks = append(r.asks, a)
	}
}

// Take answers what is there.
func (r *reading[K, T]) Take(sent time.Time, err error) {
	r.taken = true
	r.h.away.Done(r.ctx, sent, len(r.asks), func(i int) (string, error) {
		a := &r.asks[i]
		if a.cmd != nil {
			if a.err = err; err == nil {
				a.err = a.cmd.Err()
			}
		}
		return a.k, a.err
	})
	for _, a := range r.asks {
		l := look[T]{err: a.err}
		if a.cmd != nil && err == nil {
			l.v, l.s, l.err = r.h.open(a.k, a.cmd)
		}
		switch {
		case l.err == nil && l.s.whole:
			r.h.stats.saw(l.s, nil)
			r.got(a.i, l.v, nil)
			continue
		case script.NotKnown(l.err), errors.Is(l.err, errParts): // then it was not read
			r.missing = append(r.missing, missing[T]{i: a.i, k: a.k})
			continue
		case l.err != nil && (errors.Is(l.err, circuit.ErrAway) || !script.Answered(l.err)):
			r.away = l.err
		}
		r.missing = append(r.missing, missing[T]{a.i, a.k, &l})
	}
}

// Away returns why Redis was not asked for some of the keys, or did not answer.
func (r *reading[K, T]) Away() error { return r.away }

// Spawn is guard.Go in a goroutine that Close waits for.
func (r *reading[K, T]) Spawn(code guard.Code, fn func() error, done func(error)) {
	r.h.flights.Spawn(code, fn, done)
}

// Drop does nothing: restorations end by themselves, or with ctx.
func (r *reading[K, T]) Drop() {}

// restorers is how many keys of one reading are restored at once.
const restorers = 64

// Load begins to restore what is missing.
func (r *reading[K, T]) Load(c *convoy.Convoy) {
	r.loaded, r.over = true, make(chan struct{})
	if len(r.missing) == 0 {
		close(r.over)
		return
	}
	if r.h.up == nil {
		c = nil // there is nothing to restore
	}
	queue := make(chan missing[T], len(r.missing))
	for _, m := range r.missing {
		queue <- m
	}
	close(queue)
	var running atomic.Int64
	running.Store(int64(min(len(r.missing), restorers)))
	for range running.Load() {
		r.restore(queue, c, func() {
			if running.Add(-1) == 0 {
				close(r.over)
			}
		})
	}
}

// restore restores, in a goroutine, what is in queue, and then calls ended.
func (r *reading[K, T]) restore(queue <-chan missing[T], c *convoy.Convoy, ended func()) {
	with := join(c)
	var m missing[T]
	// Ends with the restorations, which heed ctx.
	guard.Go(guard.Codec, func() error {
		for m = range queue {
			v, err := r.h.found(r.ctx, m.k, r.keys[m.i], m.seen, with)
			r.got(m.i, v, err)
			with = nil
			if len(queue) > 0 {
				with = join(c)
			}
		}
		return nil
	}, func(err error) {
		with.leave()
		if err == nil {
			ended()
			return
		}
		var zero T
		r.got(m.i, zero, r.h.fail("get", m.k, err))
		r.restore(queue, c, ended) // the others
	})
}

// Answer waits until what is missing has been answered, or ctx ends.
func (r *reading[K, T]) Answer(ctx context.Context, err error) {
	if !r.taken { // by a Batch that is not ours
		r.Take(time.Now(), err)
	}
	if !r.loaded {
		r.Load(nil)
	}
	select {
	case <-r.over:
	case <-ctx.Done():
	}
}
