package cachex

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/guard"
)

// BatchRead makes a Cache a batch.Source. It is for package batch, which calls got
// with what Get would return for each key.
func (c *Cache[K, V]) BatchRead(ctx context.Context, keys []K, got func(i int, v V, err error)) batch.Reading {
	k := c.keyed
	return k.core.batchRead(ctx, &keyList[K]{c: k, keys: keys}, func(i int, box any, err error) { got(i, unbox[V](box), err) })
}

func (c *core) batchRead(ctx context.Context, from keys, got func(i int, box any, err error)) batch.Reading {
	r := &batchRead{c: c, keys: from, got: got}
	if err := c.admit(ctx, OpGet); err != nil {
		r.bad = err
		return r
	}
	begun := false
	defer func() {
		if !begun { // there is nothing to read, or KeyFunc or the Observer has panicked
			c.calls.leave()
		}
	}()
	n := from.len()
	first := min(n, c.settings.maxKeys) // those after it are read by readRest
	ks := make([]string, 0, first)
	var buf []byte
	for i := range first {
		b, err := from.append(buf[:0], i)
		switch {
		case err != nil:
			if r.at == nil {
				r.at = upTo(i)
			}
			got(i, nil, c.fail(OpGet, "", err))
			continue
		case r.at != nil:
			r.at = append(r.at, i)
		}
		buf, ks = b, append(ks, string(b))
	}
	if r.ks = ks; len(ks) == 0 && first == n {
		return r
	}
	k := ""
	if len(ks) > 0 {
		k = ks[0]
	}
	ctx, r.watch = c.begin(ctx, OpGet, k, len(ks)+n-first)
	r.ctx = ctx
	if r.atOnce = 1; first < n {
		r.atOnce = max(c.atOnce(1+chunks(n-first, c.settings.maxKeys)), 2) // this one, and others
	}
	limit, load := c.plan(from, r.at, r.atOnce)
	r.boxes = c.values.slab(len(ks))
	r.reading, begun, r.inside = c.engine.Reading(ctx, ks, limit, load, r.boxes), true, true
	return r
}

// A batchRead is the part that a Cache has in a Batch. It takes part in a Convoy.
type batchRead struct {
	reading       *engine.ManyRead // nil: there is nothing to read
	boxes         slab             // of reading
	c             *core
	keys          keys
	ks            []string
	at            []int // where in keys they are; nil: all in their place
	got           func(i int, box any, err error)
	bad           error // of every key
	ctx           context.Context
	watch         *watch
	atOnce        int         // how many chunks of keys are under way at once
	rest          chan *found // nil: the keys are one chunk
	taken, loaded bool        // Take, or Load, was called
	answered      bool
	inside        bool // Close waits for us
}

var _ convoy.Loading = (*batchRead)(nil)

// Client returns the client of the Cache.
func (r *batchRead) Client() redis.UniversalClient { return r.c.rdb }

// Ask queues a GET for each key that is not being loaded.
func (r *batchRead) Ask(ctx context.Context, p redis.Pipeliner) {
	if r.reading != nil {
		r.reading.Ask(ctx, p)
	}
}

// Take decodes what is there. After Answer the boxes may be those of others.
func (r *batchRead) Take(sent time.Time, ended convoy.Ended) {
	if r.taken = true; r.reading != nil && !r.answered {
		r.reading.Take(sent, ended)
	}
}

// Load begins to load what is not, and to read the keys that come after Spec.MaxKeys.
func (r *batchRead) Load(c *convoy.Convoy) {
	if r.loaded = true; r.reading == nil {
		return
	}
	r.reading.Load(c)
	if r.keys.len() > r.c.settings.maxKeys && r.rest == nil {
		r.rest = make(chan *found, 1)
		f := new(found)
		r.c.engine.Spawn(guard.Client, func() error { r.readRest(f); return nil }, func(error) { r.rest <- f }) // ends with ctx
	}
}

// readRest reads the keys that come after the first Spec.MaxKeys, in round trips of its
// own, so many at a time.
func (r *batchRead) readRest(f *found) {
	c, size := r.c, r.c.settings.maxKeys
	all := r.keys.len()
	var mu sync.Mutex // of f
	chunked(r.ctx, chunks(all-size, size), r.atOnce-1, func(n int) func() {
		from := size + n*size
		ks, at := make([]string, 0, size), make([]int, 0, size)
		var buf []byte
		for i := from; i < min(from+size, all); i++ {
			b, err := r.keys.append(buf[:0], i)
			if err != nil {
				r.got(i, nil, c.fail(OpGet, "", err))
				continue
			}
			buf, ks, at = b, append(ks, string(b)), append(at, i)
		}
		return func() {
			if len(ks) == 0 {
				return
			}
			limit, load := c.plan(r.keys, at, r.atOnce)
			boxes := c.values.slab(len(ks))
			var answers []engine.Answer
			if load == nil {
				answers = c.engine.LookupMany(r.ctx, ks, boxes)
			} else {
				answers = c.engine.GetMany(r.ctx, ks, limit, load, boxes)
			}
			mu.Lock()
			defer mu.Unlock()
			r.give(f, ks, at, answers)
			boxes.free()
		}
	}, func(n int, err error) {
		from := size + n*size
		for i := from; i < min(from+size, all); i++ {
			b, one := r.keys.append(nil, i)
			if one != nil {
				b = nil
			} else {
				one = err
			}
			failed := c.fail(OpGet, string(b), one)
			mu.Lock()
			f.fail(i, failed)
			mu.Unlock()
			r.got(i, nil, failed)
		}
	})
}

// Silence returns how long the Cache waits for an answer of Redis.
func (r *batchRead) Silence() time.Duration { return convoy.Silence(r.c.settings.leaseTTL) }

// Away returns why Redis was not asked, or did not answer.
func (r *batchRead) Away() error {
	if r.reading == nil {
		return nil
	}
	return r.reading.Away()
}

// Spawn is guard.Go in a goroutine that Close waits for.
func (r *batchRead) Spawn(code guard.Code, fn func() error, done func(error)) {
	r.c.engine.Spawn(code, fn, done)
}

// Drop lets Close go on.
func (r *batchRead) Drop() {
	if r.inside {
		r.inside = false
		r.c.calls.leave()
	}
}

// Answer waits for the loads and answers all keys.
func (r *batchRead) Answer(_ context.Context, err error) {
	if r.reading == nil {
		if r.bad != nil {
			for i := range r.keys.len() {
				r.got(i, nil, r.bad)
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
		r.reading.Take(time.Now(), convoy.AllEnded(err))
	}
	if !r.loaded {
		r.Load(nil)
	}
	f := new(found)
	r.give(f, r.ks, r.at, r.reading.Wait())
	r.boxes.free()
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

// give answers some keys, and notes the outcome. is says where they are among the keys of
// the Batch, nil if all are in their place.
func (r *batchRead) give(f *found, ks []string, is []int, answers []engine.Answer) {
	c := r.c
	for i, a := range answers {
		if a.Err == nil && (a.Outcome == 0 || a.Outcome == engine.OutcomeNotFound) {
			a.Err = c.absent() // of a Cache that does not load
		}
		one := a.Err
		if one != nil {
			one = c.fail(OpGet, ks[i], one)
		}
		at := place(is, i)
		if one == nil || errors.Is(one, ErrNotFound) {
			f.how = max(f.how, Outcome(a.Outcome))
		} else {
			f.fail(at, one)
		}
		r.got(at, a.Value, one)
	}
	c.engine.Reuse(answers)
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
