package cachex

import (
	"context"
	"errors"
	"slices"
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
	if err := c.admit(ctx, "get"); err != nil {
		r.bad = err
		return r
	}
	begun := false
	defer func() {
		if !begun { // there is nothing to read, or KeyFunc or the Observer has panicked
			c.calls.leave()
		}
	}()
	ks, able := make([]string, 0, len(keys)), keys
	for i, key := range keys {
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
			got(i, zero, c.fail("get", "", err))
			continue
		case r.at != nil:
			able, r.at = append(able, key), append(r.at, i)
		}
		ks = append(ks, k)
	}
	if r.ks = ks; len(ks) == 0 {
		return r
	}
	ctx, r.watch = c.begin(ctx, "get", ks[0], len(ks))
	r.ctx = ctx
	limit, load := c.plan(able)
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
	watch              watch
	taken, loaded      bool
	answered           bool
	inside             bool // Close waits for us
}

var _ convoy.Loading = (*batchRead[int, int])(nil)

// Client returns the client of the Cache.
func (r *batchRead[K, V]) Client() redis.UniversalClient { return r.c.rdb }

// Ask queues a GET for each key that is not being loaded.
func (r *batchRead[K, V]) Ask(ctx context.Context, p redis.Pipeliner) {
	if r.Reading != nil {
		r.Reading.Ask(ctx, p)
	}
}

// Take decodes what is there.
func (r *batchRead[K, V]) Take(sent time.Time, err error) {
	if r.taken = true; r.Reading != nil {
		r.Reading.Take(sent, err)
	}
}

// Load begins to load what is not.
func (r *batchRead[K, V]) Load(c *convoy.Convoy) {
	if r.loaded = true; r.Reading != nil {
		r.Reading.Load(c)
	}
}

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
		r.c.calls.leave()
	}
}

// Answer waits for the loads and answers all keys.
func (r *batchRead[K, V]) Answer(_ context.Context, err error) {
	c := r.c
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
		r.Take(time.Now(), err)
	}
	if !r.loaded {
		r.Load(nil)
	}
	var how Outcome
	var failed error
	answers := r.Wait()
	for i, a := range answers {
		if a.Err == nil && (a.Outcome == 0 || a.Outcome == NotFound) {
			a.Err = c.absent() // of a Cache that does not load
		}
		one := a.Err
		if one != nil {
			one = c.fail("get", r.ks[i], one)
		}
		if one == nil || errors.Is(one, ErrNotFound) {
			how = max(how, a.Outcome)
		} else if failed == nil {
			failed = one
		}
		at := i
		if r.at != nil {
			at = r.at[i]
		}
		r.got(at, a.Value, one)
	}
	c.loader.Reuse(answers)
	if failed != nil {
		how = 0
	}
	r.watch.end(r.ctx, how, failed)
}

// upTo returns the numbers below n.
func upTo(n int) []int {
	is := make([]int, n)
	for i := range is {
		is[i] = i
	}
	return is
}
