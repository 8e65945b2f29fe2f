package cachex

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/loader"
)

// BatchRead makes a Cache a batch.Source. It is for package batch, which calls got
// with what Get would return for each key.
func (c *Cache[K, V]) BatchRead(ctx context.Context, keys []K, got func(i int, v V, err error)) batch.Reading {
	r := &batchRead[K, V]{c: c, keys: keys, got: got}
	if err := c.core.admit(ctx, OpGet); err != nil {
		r.bad = err
		return r
	}
	begun := false
	defer func() {
		if !begun { // there is nothing to read, or KeyFunc or the Observer has panicked
			c.core.calls.leave()
		}
	}()
	first := keys[:min(len(keys), c.core.settings.maxKeys)] // those after it are read by readRest
	ks, able := make([]string, 0, len(first)), first
	for i, key := range first {
		k, err := c.render(key)
		if err == nil {
			err = c.key.Hashable(key)
		}
		switch {
		case err != nil:
			if r.at == nil {
				able, r.at = slices.Clone(keys[:i]), upTo(i)
			}
			var zero V
			got(i, zero, c.core.fail(OpGet, "", err))
			continue
		case r.at != nil:
			able, r.at = append(able, key), append(r.at, i)
		}
		ks = append(ks, k)
	}
	if r.ks = ks; len(ks) == 0 && len(first) == len(keys) {
		return r
	}
	k, n := "", len(ks)+len(keys)-len(first)
	if len(ks) > 0 {
		k = ks[0]
	}
	ctx, r.watch = c.core.begin(ctx, OpGet, k, n)
	r.ctx = ctx
	if r.atOnce = 1; len(first) < len(keys) {
		r.atOnce = max(c.atOnce(1+chunks(len(keys)-len(first), c.core.settings.maxKeys)), 2) // this one, and others
	}
	limit, load := c.plan(able, r.atOnce)
	r.Reading, begun, r.inside = c.loader.Reading(ctx, ks, limit, load), true, true
	return r
}

// A batchRead is the part that a Cache has in a Batch. It takes part in a Convoy.
type batchRead[K comparable, V any] struct {
	*loader.Reading[V] // nil: there is nothing to read
	c                  *Cache[K, V]
	keys               []K
	ks                 []string
	at                 []int // where in keys they are; nil: all in their place
	got                func(int, V, error)
	bad                error // of every key
	ctx                context.Context
	watch              *watch
	atOnce             int               // how many chunks of keys are under way at once
	rest               chan *found[K, V] // nil: the keys are one chunk
	taken, loaded      bool              // Take, or Load, was called
	answered           bool
	inside             bool // Close waits for us
}

var _ convoy.Loading = (*batchRead[int, int])(nil)

// Client returns the client of the Cache.
func (r *batchRead[K, V]) Client() redis.UniversalClient { return r.c.core.rdb }

// Ask queues a GET for each key that is not being loaded.
func (r *batchRead[K, V]) Ask(ctx context.Context, p redis.Pipeliner) {
	if r.Reading != nil {
		r.Reading.Ask(ctx, p)
	}
}

// Take decodes what is there.
func (r *batchRead[K, V]) Take(sent time.Time, ended convoy.Ended) {
	if r.taken = true; r.Reading != nil {
		r.Reading.Take(sent, ended)
	}
}

// Load begins to load what is not, and to read the keys that come after Spec.MaxKeys.
func (r *batchRead[K, V]) Load(c *convoy.Convoy) {
	if r.loaded = true; r.Reading == nil {
		return
	}
	r.Reading.Load(c)
	if len(r.keys) > r.c.core.settings.maxKeys && r.rest == nil {
		r.rest = make(chan *found[K, V], 1)
		f := new(found[K, V])
		r.c.loader.Spawn(guard.Client, func() error { r.readRest(f); return nil }, func(error) { r.rest <- f }) // ends with ctx
	}
}

// readRest reads the keys that come after the first Spec.MaxKeys, in round trips of its
// own, so many at a time.
func (r *batchRead[K, V]) readRest(f *found[K, V]) {
	c, size := r.c, r.c.core.settings.maxKeys
	keys := r.keys[size:]
	var mu sync.Mutex // of f
	chunked(r.ctx, chunks(len(keys), size), r.atOnce-1, func(n int) func() {
		ks, at, some := make([]string, 0, size), make([]int, 0, size), make([]K, 0, size)
		for i, key := range keys[n*size : min((n+1)*size, len(keys))] {
			k, err := c.render(key)
			if err == nil {
				err = c.key.Hashable(key)
			}
			if err != nil {
				var zero V
				r.got(size+n*size+i, zero, c.core.fail(OpGet, "", err))
				continue
			}
			ks, at, some = append(ks, k), append(at, size+n*size+i), append(some, key)
		}
		return func() {
			if len(ks) == 0 {
				return
			}
			limit, load := c.plan(some, r.atOnce)
			var answers []loader.Answer[V]
			if load == nil {
				answers = c.loader.LookupMany(r.ctx, ks)
			} else {
				answers = c.loader.GetMany(r.ctx, ks, limit, load)
			}
			mu.Lock()
			defer mu.Unlock()
			r.give(f, ks, answers, func(i int) int { return at[i] })
		}
	}, func(n int, err error) {
		for i, key := range keys[n*size : min((n+1)*size, len(keys))] {
			k, bad := c.render(key)
			if bad != nil {
				k, err = "", bad
			}
			var zero V
			failed := c.core.fail(OpGet, k, err)
			mu.Lock()
			f.fail(size+n*size+i, failed)
			mu.Unlock()
			r.got(size+n*size+i, zero, failed)
		}
	})
}

// Silence returns how long the Cache waits for an answer of Redis.
func (r *batchRead[K, V]) Silence() time.Duration { return convoy.Silence(r.c.core.settings.leaseTTL) }

// Away returns why Redis was not asked, or did not answer.
func (r *batchRead[K, V]) Away() error {
	if r.Reading == nil {
		return nil
	}
	return r.Reading.Away()
}

// Spawn is guard.Go in a goroutine that Close waits for.
func (r *batchRead[K, V]) Spawn(code guard.Code, fn func() error, done func(error)) {
	r.c.loader.Spawn(code, fn, done)
}

// Drop lets Close go on.
func (r *batchRead[K, V]) Drop() {
	if r.inside {
		r.inside = false
		r.c.core.calls.leave()
	}
}

// Answer waits for the loads and answers all keys.
func (r *batchRead[K, V]) Answer(_ context.Context, err error) {
	if r.Reading == nil {
		if r.bad != nil {
			for i := range r.keys {
				var zero V
				r.got(i, zero, r.bad)
			}
		}
		return
	}
	if r.answered { // and the answers are others by now
		return
	}
	r.answered = true
	defer r.Drop()
	if !r.taken { // by a Batch that is not ours
		r.Take(time.Now(), convoy.AllEnded(err))
	}
	if !r.loaded {
		r.Load(nil)
	}
	f := new(found[K, V])
	r.give(f, r.ks, r.Wait(), func(i int) int {
		if r.at != nil {
			return r.at[i]
		}
		return i
	})
	if r.rest != nil {
		more := <-r.rest
		f.how = max(f.how, more.how)
		f.fail(more.at, more.failed)
	}
	if f.failed != nil {
		f.how = 0
	}
	r.watch.end(r.ctx, f.how, f.failed)
}

// give answers keys, and notes the outcome. at returns which of the keys of the Batch the
// i-th is.
func (r *batchRead[K, V]) give(f *found[K, V], ks []string, answers []loader.Answer[V], at func(i int) int) {
	c := r.c
	for i, a := range answers {
		if a.Err == nil && (a.Outcome == 0 || a.Outcome == NotFound) {
			a.Err = c.absent() // of a Cache that does not load
		}
		one := a.Err
		if one != nil {
			one = c.core.fail(OpGet, ks[i], one)
		}
		if one == nil || errors.Is(one, ErrNotFound) {
			f.how = max(f.how, a.Outcome)
		} else {
			f.fail(at(i), one)
		}
		r.got(at(i), a.Value, one)
	}
	c.loader.Reuse(answers)
}

// chunks returns how many chunks of a size n keys are.
func chunks(n, size int) int { return (n + size - 1) / size }

// upTo returns the numbers below n.
func upTo(n int) []int {
	is := make([]int, n)
	for i := range is {
		is[i] = i
	}
	return is
}
