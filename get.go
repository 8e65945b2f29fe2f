package cachex

import (
	"context"
	"errors"

	"github.com/cachex-go/cachex/internal/engine"
)

// Get returns the value of key: from Redis, or else from Up, once for the whole
// fleet.
//
// On a miss one caller, in one process, calls Up, and the value is stored. The
// others, here and in other processes, wait for it; each leaves on its own ctx.
// A Delete or a Set during Up wins: what Up returned is then not stored, nor
// given to callers who came after. If the process that loads dies, another one
// takes over within Spec.LeaseTTL.
//
// A value that is stale is returned at once while one process reloads it, for
// Spec.StaleWhileRevalidate; and after that, for Spec.StaleIfError, where Up fails
// or takes longer than Spec.SoftTimeout. WithOutcome tells.
//
// The error is an *Error: ErrNotFound if there is no value, the error of Up, or
// the cause of the end of ctx. Where Redis fails, Up is called without it, once
// at a time in this process, nothing is stored, and Stats count it; without Up
// it is the error of Redis. Bytes in Redis that cannot be used are a miss, and
// are overwritten.
func (c *Cache[K, V]) Get(ctx context.Context, key K) (V, error) {
	return c.get(ctx, key, c.keyed.up)
}

// Wrap returns a function that returns what up does, as Get returns what Spec.Up
// does: from Redis, or else from up, once for the whole fleet. It is for a cache
// without an Up, of which the key, the codec and the TTLs are described once, and
// for functions that are made later, in a closure perhaps. If up is nil, a miss is
// ErrNotFound. Functions that Wrap returns and Get share values, and loads under
// way: for one key they should all load the same.
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

// get is Cache.Get of the key k in Redis, unless bad is not nil. loads says whether t can
// load.
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

// absent returns the error of a read that has found no value in Redis, where nothing
// is loaded.
func (c *core) errMissing() error {
	if c.zeroIfMissing {
		return nil
	}
	return ErrNotFound
}

// Lookup returns the value of key in Redis, and whether there is one. It never
// loads, and does not wait for a load. A value that is stale is one for
// Spec.StaleWhileRevalidate.
//
// The error is an *Error, of Redis or of the end of ctx. Bytes in Redis that
// cannot be used are no value, and stay.
func (c *Cache[K, V]) Lookup(ctx context.Context, key K) (V, bool, error) {
	box, ok, err := c.keyed.lookup(ctx, key, new(V))
	return unbox[V](box), ok, err
}

// lookup is Cache.Lookup of the key k in Redis, unless bad is not nil. box has room for
// the value.
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
