package collection

import (
	"context"
	"errors"
	"sync"
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
	missing       []missing[T] // to be restored by the next Load
	away          error        // why Redis was not asked, or did not answer
	taken, loaded bool         // Take, or Load, was called

	mu      sync.Mutex
	queue   []missing[T]  // guarded by mu: to be restored by the goroutines that run
	running int           // guarded by mu: goroutines that restore, at most restorers
	over    chan struct{} // guarded by mu: closed when none runs; nil: Answer does not wait
}

var _ convoy.Loading = (*reading[int, int])(nil)

// An asked is one key that Redis is asked for.
type asked struct {
	i   int // in keys
	k   string
	cmd redis.Cmder // nil: it is not
	at  int         // which of the commands cmd is
	err error       // why it is not asked for, or was not answered

	taken bool
}

// A missing is one key that was not there, and what was seen of it; nil: nothing was.
type missing[T any] struct {
	i    int
	k    string
	seen *look[T]
	c    *convoy.Convoy // of its Load; nil: none
}

// Client returns the client of the collection.
func (r *reading[K, T]) Client() redis.UniversalClient { return r.h.rdb }

// Ask queues the command of each key, but not those for which Redis is not worth
// asking.
func (r *reading[K, T]) Ask(ctx context.Context, p redis.Pipeliner) {
	from := p.Len()
	for i, key := range r.keys {
		k, err := r.h.rendered(key)
		if err != nil {
			var zero T
			r.got(i, zero, r.h.fail("get", k, err))
			continue
		}
		a := asked{i: i, k: k, err: r.h.refusal(k)}
		if a.err == nil {
			a.at, a.cmd = p.Len()-from, r.h.ask(ctx, p, k)
		}
		r.asks = append(r.asks, a)
	}
}

// Take answers what is there.
func (r *reading[K, T]) Take(sent time.Time, ended convoy.Ended) {
	r.taken = true
	var some []*asked
	for i := range r.asks {
		a := &r.asks[i]
		if a.taken {
			continue
		}
		if a.cmd != nil {
			over, err := ended(a.at)
			if !over {
				continue
			}
			if a.err = err; err != nil {
				a.cmd = nil // it must not be looked at
			} else {
				a.err = a.cmd.Err()
			}
		}
		a.taken, some = true, append(some, a)
	}
	r.h.away.Done(r.ctx, sent, len(some), func(i int) (string, error) { return some[i].k, some[i].err })
	for _, a := range some {
		l := look[T]{err: a.err}
		if a.cmd != nil {
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
		r.missing = append(r.missing, missing[T]{i: a.i, k: a.k, seen: &l})
	}
}

// Silence returns how long a cache with the same LeaseTTL waits for an answer of Redis.
func (r *reading[K, T]) Silence() time.Duration { return convoy.Silence(r.h.lease) }

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
	r.loaded = true
	some := r.missing
	r.missing = nil
	if r.h.up == nil {
		c = nil // there is nothing to restore
	}
	for i := range some {
		some[i].c = c
	}
	r.mu.Lock()
	n := min(len(some), restorers-r.running)
	r.running += n
	r.queue = append(r.queue, some[n:]...)
	r.mu.Unlock()
	for _, m := range some[:n] {
		r.restore(m, join(c))
	}
}

// next takes a key from the queue, and has it join its convoy. If the queue is empty, it
// reports false: the goroutine of the caller ends.
func (r *reading[K, T]) next() (m missing[T], with *party, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if more = len(r.queue) > 0; more {
		m, r.queue = r.queue[0], r.queue[1:]
		return m, join(m.c), true
	}
	if r.running--; r.running == 0 && r.over != nil {
		close(r.over)
		r.over = nil
	}
	return m, nil, false
}

// restore restores a key, and then those in the queue, in a goroutine.
func (r *reading[K, T]) restore(m missing[T], with *party) {
	// Ends with the restorations, which heed ctx.
	guard.Go(guard.Codec, func() error {
		for more := true; more; m, with, more = r.next() {
			v, err := r.h.found(r.ctx, m.k, r.keys[m.i], m.seen, with)
			r.got(m.i, v, err)
		}
		return nil
	}, func(err error) {
		if err == nil {
			return
		}
		with.leave()
		var zero T
		r.got(m.i, zero, r.h.fail("get", m.k, err))
		if m, with, more := r.next(); more { // the others
			r.restore(m, with)
		}
	})
}

// idle returns a channel that is closed when nothing is being restored.
func (r *reading[K, T]) idle() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	over := r.over
	if over == nil {
		over = make(chan struct{})
		if r.running == 0 {
			close(over)
		} else {
			r.over = over
		}
	}
	return over
}

// Answer waits until what is missing has been answered, or ctx ends.
func (r *reading[K, T]) Answer(ctx context.Context, err error) {
	if !r.taken { // by a Batch that is not ours
		r.Take(time.Now(), convoy.AllEnded(err))
	}
	if !r.loaded {
		r.Load(nil)
	}
	select {
	case <-r.idle():
	case <-ctx.Done():
	}
}
