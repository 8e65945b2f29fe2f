package cachex

import (
	"cmp"
	"context"
	"errors"

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
// Each key is loaded once for the whole fleet, and is shared with calls of Get and
// GetMany that ask for it at the same time; keys that are being loaded elsewhere
// are waited for and not loaded. What is said of Get is true of each key by itself:
// of a Delete during the load, of stale values, of Redis failing.
//
// The error is an *Error with the first key, in the order of keys, that failed.
// The map is right all the same: it has every value that could be had.
func (c *Cache[K, V]) GetMany(ctx context.Context, keys []K) (map[K]V, error) {
	zero := c.up == nil && c.absent() == nil
	return c.many(ctx, "getmany", keys, zero, func(ctx context.Context, ks []string, keys []K) []loader.Answer[V] {
		if c.up == nil {
			return c.loader.LookupMany(ctx, ks)
		}
		limit, load := c.plan(keys)
		return c.loader.GetMany(ctx, ks, limit, load)
	})
}

// LookupMany returns the values of keys that are in Redis, in one round trip. It
// never loads, and does not wait for a load. The error is as that of GetMany.
func (c *Cache[K, V]) LookupMany(ctx context.Context, keys []K) (map[K]V, error) {
	return c.many(ctx, "lookupmany", keys, false, func(ctx context.Context, ks []string, _ []K) []loader.Answer[V] {
		return c.loader.LookupMany(ctx, ks)
	})
}

// plan returns what loads keys, nil if nothing does, and how many at a time if it
// loads them one by one.
func (c *Cache[K, V]) plan(keys []K) (limit int, load loader.ManyFunc[V]) {
	switch {
	case c.up == nil:
		return 0, nil
	case c.spec.UpMany != nil:
		return 0, c.loadingMany(keys)
	}
	return cmp.Or(c.spec.MaxLoads, eachLimit), func(ctx context.Context, is []int) []loader.Loaded[V] {
		v, life, err := c.restore(ctx, keys[is[0]], c.up)
		return []loader.Loaded[V]{{Value: v, Life: life, Err: err}}
	}
}

// many asks for the values of keys, each once. If zero is set, a key without a value
// has the zero value.
func (c *Cache[K, V]) many(ctx context.Context, op string, keys []K, zero bool, ask func(context.Context, []string, []K) []loader.Answer[V]) (map[K]V, error) {
	ks, distinct, before, bad := c.renderAll(op, keys)
	if err := c.admit(ctx, op); err != nil {
		tell(ctx, 0)
		return nil, err
	}
	defer c.calls.leave()
	values := make(map[K]V, len(ks))
	if len(ks) == 0 {
		tell(ctx, 0)
		return values, bad
	}
	ctx, w := c.begin(ctx, op, ks[0], len(ks))
	var how Outcome
	var failed error
	answers := ask(ctx, ks, distinct)
	for i, a := range answers {
		switch {
		case a.Err == nil && (zero || a.Outcome != 0 && a.Outcome != NotFound):
			values[distinct[i]] = a.Value
		case a.Err != nil && !errors.Is(a.Err, ErrNotFound):
			if failed == nil && (bad == nil || i < before) {
				failed = c.fail(op, ks[i], a.Err)
			}
			continue // it has no outcome
		}
		how = max(how, a.Outcome)
	}
	c.loader.Reuse(answers)
	if failed == nil {
		failed = bad
	}
	if failed != nil {
		how = 0 // of the call as a whole: Outcome stands for what was returned without an error
	}
	tell(ctx, how)
	w.end(ctx, how, failed)
	return values, failed
}
