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

// BatchRead makes the collection a batch.Source. Only package batch calls it.
// It calls got with the result of Get for each key. Absent collections are
// restored like Get does, concurrently, in the round trips of the batch. They
// do not delay the results of others.
func (h *store[K, T]) BatchRead(ctx context.Context, keys []K, got func(i int, v T, err error)) batch.Reading {
	return &batchRead[K, T]{h: h, ctx: ctx, keys: keys, got: got}
}

// batchRead is the part of a collection in a Batch. It takes part in a Convoy.
type batchRead[K comparable, T any] struct {
	h             *store[K, T]
	ctx           context.Context // of the batch, which the batchRead does not outlive
	keys          []K
	got           func(int, T, error)
	asks          []keyRead
	missing       []missingKey[T] // the next Load restores them
	refused       error           // why Redis was not asked, or did not answer
	taken, loaded bool            // Take, or Load, was called

	mu      sync.Mutex
	queue   []missingKey[T] // guarded by mu: the running goroutines restore them
	running int             // guarded by mu: goroutines that restore, at most maxRestorers
	allDone chan struct{}   // guarded by mu: closed when none runs; nil: Answer does not wait
}

var _ convoy.Loading = (*batchRead[int, int])(nil)

// keyRead is the read of one key.
type keyRead struct {
	i    int // in keys
	rkey string
	cmd  redis.Cmder // nil: nothing is sent
	at   int         // the index of cmd in the pipeline
	err  error       // why nothing was sent, or no reply came

	taken bool
}

// missingKey is a key whose collection was not found. prior is nil if nothing
// was read.
type missingKey[T any] struct {
	i      int
	rkey   string
	prior  *readResult[T]
	convoy *convoy.Convoy // of its Load; nil: it has none
}

// Client returns the client of the collection.
func (r *batchRead[K, T]) Client() redis.UniversalClient { return r.h.rdb }

// Ask queues the command of each key, except keys that the breaker rejects.
func (r *batchRead[K, T]) Ask(ctx context.Context, p redis.Pipeliner) {
	from := p.Len()
	for i, key := range r.keys {
		k, err := r.h.renderKey(key)
		if err != nil {
			var zero T
			r.got(i, zero, r.h.fail("get", k, err))
			continue
		}
		a := keyRead{i: i, rkey: k, err: r.h.breakerErr(k)}
		if a.err == nil {
			a.at, a.cmd = p.Len()-from, r.h.command(ctx, p, k)
		}
		r.asks = append(r.asks, a)
	}
}

// Take passes on the collections that were found.
func (r *batchRead[K, T]) Take(sent time.Time, result convoy.Ended) {
	r.taken = true
	var ended []*keyRead
	for i := range r.asks {
		a := &r.asks[i]
		if a.taken {
			continue
		}
		if a.cmd != nil {
			over, err := result(a.at)
			if !over {
				continue
			}
			if a.err = err; err != nil {
				a.cmd = nil // its reply must not be used
			} else {
				a.err = a.cmd.Err()
			}
		}
		a.taken, ended = true, append(ended, a)
	}
	r.h.breakers.Done(r.ctx, sent, len(ended), func(i int) (string, error) { return ended[i].rkey, ended[i].err })
	for _, a := range ended {
		l := readResult[T]{err: a.err}
		if a.cmd != nil {
			l.value, l.state, l.err = r.h.parse(a.rkey, a.cmd)
		}
		switch {
		case l.err == nil && l.state.complete:
			r.h.stats.countRead(l.state, nil)
			r.got(a.i, l.value, nil)
			continue
		case script.NotKnown(l.err), errors.Is(l.err, errNeedsParts): // nothing was read
			r.missing = append(r.missing, missingKey[T]{i: a.i, rkey: a.rkey})
			continue
		case l.err != nil && (errors.Is(l.err, circuit.ErrAway) || !script.Answered(l.err)):
			r.refused = l.err
		}
		r.missing = append(r.missing, missingKey[T]{i: a.i, rkey: a.rkey, prior: &l})
	}
}

// Silence returns how long a cache with the same LeaseTTL waits for a reply of
// Redis.
func (r *batchRead[K, T]) Silence() time.Duration { return convoy.Silence(r.h.lease) }

// Away returns why some keys were not asked for, or got no reply.
func (r *batchRead[K, T]) Away() error { return r.refused }

// Spawn is guard.Go on a goroutine that Close waits for.
func (r *batchRead[K, T]) Spawn(code guard.Code, fn func() error, done func(error)) {
	r.h.flights.Spawn(code, fn, done)
}

// Drop does nothing: restorations end on their own, or with ctx.
func (r *batchRead[K, T]) Drop() {}

// maxRestorers limits the concurrent restorations of one batchRead.
const maxRestorers = 64

// Load starts to restore the missing collections.
func (r *batchRead[K, T]) Load(c *convoy.Convoy) {
	r.loaded = true
	missing := r.missing
	r.missing = nil
	if r.h.up == nil {
		c = nil // nothing is restored
	}
	for i := range missing {
		missing[i].convoy = c
	}
	r.mu.Lock()
	n := min(len(missing), maxRestorers-r.running)
	r.running += n
	r.queue = append(r.queue, missing[n:]...)
	r.mu.Unlock()
	for _, m := range missing[:n] {
		r.restore(m, joinConvoy(c))
	}
}

// nextMissing takes a key from the queue, and joins its convoy. If the queue is
// empty, it reports false, and the goroutine of the caller must end.
func (r *batchRead[K, T]) nextMissing() (m missingKey[T], part *participant, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if more = len(r.queue) > 0; more {
		m, r.queue = r.queue[0], r.queue[1:]
		return m, joinConvoy(m.convoy), true
	}
	if r.running--; r.running == 0 && r.allDone != nil {
		close(r.allDone)
		r.allDone = nil
	}
	return m, nil, false
}

// restore starts a goroutine that restores m, and then the queue.
func (r *batchRead[K, T]) restore(m missingKey[T], part *participant) {
	// It ends with the restorations, which end with ctx.
	guard.Go(guard.Codec, func() error {
		for more := true; more; m, part, more = r.nextMissing() {
			v, err := r.h.getPrior(r.ctx, m.rkey, r.keys[m.i], m.prior, part)
			r.got(m.i, v, err)
		}
		return nil
	}, func(err error) {
		if err == nil {
			return
		}
		part.leave()
		var zero T
		r.got(m.i, zero, r.h.fail("get", m.rkey, err))
		if m, part, more := r.nextMissing(); more { // the rest of the queue
			r.restore(m, part)
		}
	})
}

// idle returns a channel that is closed when no restoration is running.
func (r *batchRead[K, T]) idle() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	idle := r.allDone
	if idle == nil {
		idle = make(chan struct{})
		if r.running == 0 {
			close(idle)
		} else {
			r.allDone = idle
		}
	}
	return idle
}

// Answer waits until each missing key has its result, or ctx ends.
func (r *batchRead[K, T]) Answer(ctx context.Context, err error) {
	if !r.taken { // by another implementation of Batch
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
