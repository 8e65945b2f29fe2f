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

// BatchRead makes a Cache a batch.Source. Only package batch calls it. It calls
// got with the result of Get for each key.
func (c *Cache[K, V]) BatchRead(ctx context.Context, keys []K, got func(i int, v V, err error)) batch.Reading {
	k := c.keyed
	return k.core.batchRead(ctx, &typedKeys[K]{c: k, keys: keys}, func(i int, box any, err error) { got(i, unbox[V](box), err) })
}

func (c *core) batchRead(ctx context.Context, from keySource, got func(i int, box any, err error)) batch.Reading {
	r := &batchRead{c: c, keys: from, got: got}
	if err := c.admit(ctx, OpGet); err != nil {
		r.err = err
		return r
	}
	begun := false
	defer func() {
		if !begun { // there is nothing to read, or KeyFunc or the Observer panicked
			c.calls.exit()
		}
	}()
	n := from.len()
	first := min(n, c.settings.maxKeys) // readRest reads the others
	rkeys := make([]string, 0, first)
	var buf []byte
	for i := range first {
		b, err := from.append(buf[:0], i)
		switch {
		case err != nil:
			if r.at == nil {
				r.at = indexesBelow(i)
			}
			got(i, nil, c.fail(OpGet, "", err))
			continue
		case r.at != nil:
			r.at = append(r.at, i)
		}
		buf, rkeys = b, append(rkeys, string(b))
	}
	if r.rkeys = rkeys; len(rkeys) == 0 && first == n {
		return r
	}
	rkey := ""
	if len(rkeys) > 0 {
		rkey = rkeys[0]
	}
	ctx, r.obs = c.observe(ctx, OpGet, rkey, len(rkeys)+n-first)
	r.ctx = ctx
	if r.activeChunks = 1; first < n {
		r.activeChunks = max(c.activeChunks(1+chunkCount(n-first, c.settings.maxKeys)), 2) // this chunk and at least one other
	}
	limit, load := c.loadPlan(from, r.at, r.activeChunks)
	r.boxes = c.values.slab(len(rkeys))
	r.reading, begun, r.entered = c.engine.NewManyRead(ctx, rkeys, limit, load, r.boxes), true, true
	return r
}

// batchRead is the part of a Cache in a Batch. It takes part in a Convoy.
type batchRead struct {
	reading       *engine.ManyRead // nil if there is nothing to read
	boxes         slab             // of reading
	c             *core
	keys          keySource
	rkeys         []string
	at            []int // indexes in keys; nil if every key is in its place
	got           func(i int, box any, err error)
	err           error // the error of every key
	ctx           context.Context
	obs           *observation
	activeChunks  int              // number of chunks of keys that run at the same time
	restDone      chan *manyResult // nil if the keys are one chunk
	taken, loaded bool             // Take, or Load, was called
	answered      bool
	entered       bool // Close waits for this read
}

var _ convoy.Loading = (*batchRead)(nil)

// Client returns the client of the Cache.
func (r *batchRead) Client() redis.UniversalClient { return r.c.rdb }

// Ask queues a GET for each key without a load in flight.
func (r *batchRead) Ask(ctx context.Context, p redis.Pipeliner) {
	if r.reading != nil {
		r.reading.Ask(ctx, p)
	}
}

// Take decodes the replies. After Answer it does nothing, because the boxes may
// be in use elsewhere.
func (r *batchRead) Take(sent time.Time, ended convoy.Ended) {
	if r.taken = true; r.reading != nil && !r.answered {
		r.reading.Take(sent, ended)
	}
}

// Load begins to load the missing values, and to read the keys after
// Spec.MaxKeys.
func (r *batchRead) Load(c *convoy.Convoy) {
	if r.loaded = true; r.reading == nil {
		return
	}
	r.reading.Load(c)
	if r.keys.len() > r.c.settings.maxKeys && r.restDone == nil {
		r.restDone = make(chan *manyResult, 1)
		f := new(manyResult)
		r.c.engine.Spawn(guard.Client, func() error { r.readRest(f); return nil }, func(error) { r.restDone <- f }) // ends with ctx
	}
}

// readRest reads the keys after the first Spec.MaxKeys, in chunks with their
// own round trips.
func (r *batchRead) readRest(f *manyResult) {
	c, size := r.c, r.c.settings.maxKeys
	all := r.keys.len()
	var mu sync.Mutex // guards f
	runChunks(r.ctx, chunkCount(all-size, size), r.activeChunks-1, func(n int) func() {
		from := size + n*size
		rkeys, at := make([]string, 0, size), make([]int, 0, size)
		var buf []byte
		for i := from; i < min(from+size, all); i++ {
			b, err := r.keys.append(buf[:0], i)
			if err != nil {
				r.got(i, nil, c.fail(OpGet, "", err))
				continue
			}
			buf, rkeys, at = b, append(rkeys, string(b)), append(at, i)
		}
		return func() {
			if len(rkeys) == 0 {
				return
			}
			limit, load := c.loadPlan(r.keys, at, r.activeChunks)
			boxes := c.values.slab(len(rkeys))
			var answers []engine.KeyResult
			if load == nil {
				answers = c.engine.LookupMany(r.ctx, rkeys, boxes)
			} else {
				answers = c.engine.GetMany(r.ctx, rkeys, limit, load, boxes)
			}
			mu.Lock()
			defer mu.Unlock()
			r.deliver(f, rkeys, at, answers)
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
			f.recordError(i, failed)
			mu.Unlock()
			r.got(i, nil, failed)
		}
	})
}

// Silence returns how long the Cache waits for an answer of Redis.
func (r *batchRead) Silence() time.Duration { return convoy.Silence(r.c.settings.leaseTTL) }

// Away returns why Redis was not asked or did not answer.
func (r *batchRead) Away() error {
	if r.reading == nil {
		return nil
	}
	return r.reading.Away()
}

// Spawn is guard.Go on a goroutine that Close waits for.
func (r *batchRead) Spawn(code guard.Code, fn func() error, done func(error)) {
	r.c.engine.Spawn(code, fn, done)
}

// Drop ends the read, so that Close need not wait for it.
func (r *batchRead) Drop() {
	if r.entered {
		r.entered = false
		r.c.calls.exit()
	}
}

// Answer waits for the loads and answers all keys.
func (r *batchRead) Answer(_ context.Context, err error) {
	if r.reading == nil {
		if r.err != nil {
			for i := range r.keys.len() {
				r.got(i, nil, r.err)
			}
		}
		return
	}
	if r.answered { // the boxes may be in use elsewhere
		return
	}
	r.answered = true
	defer r.Drop()
	if !r.taken { // called by another driver than Batch
		r.reading.Take(time.Now(), convoy.AllEnded(err))
	}
	if !r.loaded {
		r.Load(nil)
	}
	f := new(manyResult)
	r.deliver(f, r.rkeys, r.at, r.reading.Wait())
	r.boxes.free()
	if r.restDone != nil {
		more := <-r.restDone
		f.outcome = max(f.outcome, more.outcome)
		f.recordError(more.errAt, more.err)
	}
	if f.err != nil {
		f.outcome = 0
	}
	r.obs.end(r.ctx, f.outcome, f.err)
}

// deliver passes the answers for some keys to got, and records the outcome. is
// has their indexes; nil means that every key is in its place.
func (r *batchRead) deliver(f *manyResult, rkeys []string, is []int, answers []engine.KeyResult) {
	c := r.c
	for i, a := range answers {
		if a.Err == nil && (a.Outcome == 0 || a.Outcome == engine.OutcomeNotFound) {
			a.Err = c.errMissing() // the Cache does not load
		}
		one := a.Err
		if one != nil {
			one = c.fail(OpGet, rkeys[i], one)
		}
		at := indexAt(is, i)
		if one == nil || errors.Is(one, ErrNotFound) {
			f.outcome = max(f.outcome, Outcome(a.Outcome))
		} else {
			f.recordError(at, one)
		}
		r.got(at, a.Value, one)
	}
	c.engine.Recycle(answers)
}

// chunkCount returns the number of chunks of n keys.
func chunkCount(n, size int) int { return (n + size - 1) / size }

// indexesBelow returns the integers from 0 to n-1.
func indexesBelow(n int) []int {
	is := make([]int, n)
	for i := range is {
		is[i] = i
	}
	return is
}
