package cachex

import (
	"cmp"
	"context"
	"errors"
	"math"

	"github.com/cachex-go/cachex/loader"
)

// eachLimit is how many calls of Up GetMany makes at once if Spec.MaxLoads does
// not say.
const eachLimit = 16

// GetMany returns the values of keys: from Redis, in one round trip, or else from
// UpMany, in one call, and what that returns is stored in one more round trip.
// Where most of the keys that were asked for lately were there, the leases on those
// that are missing cost another one between the two. A key that is not in the map
// has no value. A key that comes twice is asked for once.
//
// More keys than Spec.MaxKeys are read, loaded and stored in chunks of so many, four
// at a time, in any order. The call then needs little memory beside its result, and
// what one chunk has stored stays stored whatever becomes of the others.
//
// Each key is loaded once for the whole fleet, and is shared with calls of Get and
// GetMany that ask for it at the same time; keys that are being loaded elsewhere
// are waited for and not loaded. What is said of Get is true of each key by itself:
// of a Delete during the load, of stale values, of Redis failing.
//
// The error is an *Error with the first key, in the order of keys, that failed.
// The map is right all the same: it has every value that could be had.
func (c *Cache[K, V]) GetMany(ctx context.Context, keys []K) (map[K]V, error) {
	zero := c.up == nil && c.absent() == nil
	return c.many(ctx, OpGetMany, keys, zero, func(ctx context.Context, ks []string, keys []K, share int) []loader.Answer[V] {
		if c.up == nil {
			return c.loader.LookupMany(ctx, ks)
		}
		limit, load := c.plan(keys, share)
		return c.loader.GetMany(ctx, ks, limit, load)
	})
}

// LookupMany returns the values of keys that are in Redis, in one round trip for each
// 500. It never loads, and does not wait for a load. The error is as that of GetMany.
func (c *Cache[K, V]) LookupMany(ctx context.Context, keys []K) (map[K]V, error) {
	return c.many(ctx, OpLookupMany, keys, false, func(ctx context.Context, ks []string, _ []K, _ int) []loader.Answer[V] {
		return c.loader.LookupMany(ctx, ks)
	})
}

// eachLimit returns how many calls of Up a call makes at once; with UpMany, which has no
// such limit, as many as it likes.
func (c *Cache[K, V]) eachLimit() int {
	if c.spec.UpMany != nil {
		return math.MaxInt
	}
	return cmp.Or(c.core.settings.maxLoads, eachLimit)
}

// plan returns what loads keys, nil if nothing does, and how many at a time if it
// loads them one by one: its part where several share them.
func (c *Cache[K, V]) plan(keys []K, share int) (limit int, load loader.ManyFunc[V]) {
	switch {
	case c.up == nil:
		return 0, nil
	case c.spec.UpMany != nil:
		return 0, c.loadingMany(keys)
	}
	return max(c.eachLimit()/share, 1), func(ctx context.Context, is []int) []loader.Loaded[V] {
		v, life, err := c.restore(ctx, keys[is[0]], c.up)
		return []loader.Loaded[V]{{Value: v, Life: life, Err: err}}
	}
}

// askMany asks for keys, at the same time as so many others share the calls of Up.
type askMany[K comparable, V any] func(ctx context.Context, ks []string, keys []K, share int) []loader.Answer[V]

// many asks for the values of keys, each once. If zero is set, a key without a value
// has the zero value.
func (c *Cache[K, V]) many(ctx context.Context, op string, keys []K, zero bool, ask askMany[K, V]) (map[K]V, error) {
	if len(keys) > c.core.settings.maxKeys {
		return c.manyChunks(ctx, op, keys, zero, ask)
	}
	ks, distinct, before, bad := c.renderAll(op, keys)
	if err := c.core.admit(ctx, op); err != nil {
		tell(ctx, 0)
		return nil, err
	}
	defer c.core.calls.leave()
	f := found[K, V]{values: make(map[K]V, len(ks)), at: before, failed: bad}
	if len(ks) == 0 {
		return c.finish(ctx, nil, &f)
	}
	ctx, w := c.core.begin(ctx, op, ks[0], len(ks))
	f.take(c, op, 0, zero, ks, distinct, ask(ctx, ks, distinct, 1))
	return c.finish(ctx, w, &f)
}

// found is what a call for many keys has found so far.
type found[K comparable, V any] struct {
	values map[K]V
	how    Outcome
	failed error // nil: no key has failed
	at     int   // which of the keys it is that failed
}

// fail notes the error of the key at a place, unless one before it has failed.
func (f *found[K, V]) fail(at int, err error) {
	if err != nil && (f.failed == nil || at < f.at) {
		f.at, f.failed = at, err
	}
}

// take takes the answers for keys, of which the first is at a place.
func (f *found[K, V]) take(c *Cache[K, V], op string, from int, zero bool, ks []string, keys []K, answers []loader.Answer[V]) {
	for i, a := range answers {
		switch {
		case a.Err == nil && (zero || a.Outcome != 0 && a.Outcome != NotFound):
			f.values[keys[i]] = a.Value
		case a.Err != nil && !errors.Is(a.Err, ErrNotFound):
			if f.failed == nil || from+i < f.at {
				f.fail(from+i, c.core.fail(op, ks[i], a.Err))
			}
			continue // it has no outcome
		}
		f.how = max(f.how, a.Outcome)
	}
	c.loader.Reuse(answers)
}

// finish ends a call for many keys, which w has watched if it is not nil.
func (c *Cache[K, V]) finish(ctx context.Context, w *watch, f *found[K, V]) (map[K]V, error) {
	if f.failed != nil {
		f.how = 0 // of the call as a whole: Outcome stands for what was returned without an error
	}
	tell(ctx, f.how)
	if w != nil {
		w.end(ctx, f.how, f.failed)
	}
	return f.values, f.failed
}
