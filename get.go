package cachex

import (
	"context"
	"errors"

	"github.com/cachex-go/cachex/internal/engine"
)

// Get returns the value of key from Redis or, on a miss, from Up, which is
// called once for the whole fleet.
//
// On a miss, one caller in one process calls Up, and the value is stored. All
// others, in this process and elsewhere, wait for it, each on its own ctx. A
// Delete or a Set during Up wins: the result of Up is not stored, and is not
// given to later callers. If the loading process dies, another one takes over
// within Spec.LeaseTTL.
//
// During Spec.StaleWhileRevalidate, a stale value is returned at once while one
// process reloads it. After that, during Spec.StaleIfError, it is returned if
// Up fails or takes longer than Spec.SoftTimeout. WithOutcome reports which
// case applied.
//
// The error is an *Error: ErrNotFound if there is no value, the error of Up, or
// the cause of the end of ctx. If Redis fails, Up is called without it, one
// call per key at a time in this process. Its result is not stored, and Stats
// counts the bypass. Without Up, Get returns the error of Redis. Unusable bytes
// in Redis are a miss, and are overwritten.
func (c *Cache[K, V]) Get(ctx context.Context, key K) (V, error) {
	return c.get(ctx, key, c.keyed.up)
}

// Wrap returns a function that reads through the cache: like Get, but it calls
// up on a miss instead of Spec.Up. It suits a cache without Up, whose key,
// codec and TTLs are described once, and functions that are made later, such as
// closures. If up is nil, a miss is ErrNotFound. Functions returned by Wrap and
// Get share values and loads in flight, so for one key they should all load the
// same value.
func (c *Cache[K, V]) Wrap(up func(context.Context, K) (V, error)) func(context.Context, K) (V, error) {
	var boxed upBox[K]
	if up != nil {
		boxed = c.keyed.wrapUp(func(ctx context.Context, key K) (any, error) {
			v, err := up(ctx, key)
			return &v, err
		})
	}
	return func(ctx context.Context, key K) (V, error) { return c.get(ctx, key, boxed) }
}

// get implements Cache.Get for a key in Redis. If bad is not nil, it is the
// error of the call. loads reports whether t can load.
func (c *core) get(ctx context.Context, rkey string, bad error, loads bool, t engine.Target) (box any, err error) {
	rkey, err = c.enter(ctx, OpGet, rkey, bad)
	if err != nil {
		setOutcome(ctx, 0)
		return nil, err
	}
	defer c.calls.exit()
	ctx, obs := c.observe(ctx, OpGet, rkey, 1)
	var outcome engine.Outcome
	if loads {
		box, outcome, err = c.engine.GetOrLoad(ctx, rkey, t)
	} else if box, outcome, err = c.engine.Find(ctx, rkey, t.Box()); err == nil && outcome != engine.OutcomeHit && outcome != engine.OutcomeStale {
		if err = c.errMissing(); err == nil {
			outcome = engine.OutcomeNotFound
		}
	}
	if err != nil {
		if box = nil; !errors.Is(err, ErrNotFound) {
			outcome = 0
		}
		err = c.fail(OpGet, rkey, err)
	}
	setOutcome(ctx, Outcome(outcome))
	obs.end(ctx, Outcome(outcome), err)
	return box, err
}

// errMissing returns the error of a read that finds no value in Redis and does
// not load.
func (c *core) errMissing() error {
	if c.zeroIfMissing {
		return nil
	}
	return ErrNotFound
}

// Lookup returns the value of key in Redis, and reports whether there is one.
// It never loads and does not wait for a load. During
// Spec.StaleWhileRevalidate, a stale value counts as a value.
//
// The error is an *Error: an error of Redis or the cause of the end of ctx.
// Unusable bytes in Redis count as no value, and stay.
func (c *Cache[K, V]) Lookup(ctx context.Context, key K) (V, bool, error) {
	box, ok, err := c.keyed.lookup(ctx, key, new(V))
	return unbox[V](box), ok, err
}

// lookup implements Cache.Lookup for a key in Redis. If bad is not nil, it is
// the error of the call. A hit decodes into box.
func (c *core) lookup(ctx context.Context, rkey string, bad error, box any) (any, bool, error) {
	rkey, err := c.enter(ctx, OpLookup, rkey, bad)
	if err != nil {
		setOutcome(ctx, 0)
		return nil, false, err
	}
	defer c.calls.exit()
	ctx, obs := c.observe(ctx, OpLookup, rkey, 1)
	box, outcome, err := c.engine.Find(ctx, rkey, box)
	if err != nil {
		err = c.fail(OpLookup, rkey, err)
	}
	setOutcome(ctx, Outcome(outcome))
	obs.end(ctx, Outcome(outcome), err)
	return box, outcome == engine.OutcomeHit || outcome == engine.OutcomeStale, err
}
