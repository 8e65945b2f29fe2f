package cachex

import (
	"context"
	"errors"

	"github.com/cachex-go/cachex/loader"
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
	return c.get(ctx, key, c.up != nil, c.load)
}

// Wrap returns a function that returns what up does, as Get returns what Spec.Up
// does: from Redis, or else from up, once for the whole fleet. It is for a cache
// without an Up, of which the key, the codec and the TTLs are described once, and
// for functions that are made later, in a closure perhaps. If up is nil, a miss is
// ErrNotFound. Functions that Wrap returns and Get share values, and loads under
// way: for one key they should all load the same.
func (c *Cache[K, V]) Wrap(up func(context.Context, K) (V, error)) func(context.Context, K) (V, error) {
	if up != nil && c.core.engine != nil && c.kind == nil {
		up = c.upPending(up)
	}
	load := func(ctx context.Context, key K) (V, loader.Life, error) { return c.restore(ctx, key, up) }
	return func(ctx context.Context, key K) (V, error) { return c.get(ctx, key, up != nil, load) }
}

func (c *Cache[K, V]) get(ctx context.Context, key K, loads bool, load func(context.Context, K) (V, loader.Life, error)) (v V, err error) {
	k, err := c.enter(ctx, OpGet, key)
	if err != nil {
		tell(ctx, 0)
		return v, err
	}
	defer c.core.calls.leave()
	ctx, w := c.core.begin(ctx, OpGet, k, 1)
	var how Outcome
	if loads {
		v, how, err = loader.GetWith(ctx, c.loader, k, key, load)
	} else if v, how, err = c.loader.Find(ctx, k); err == nil && how != Hit && how != Stale {
		if err = c.absent(); err == nil {
			how = NotFound
		}
	}
	if err != nil {
		var zero V
		if v = zero; !errors.Is(err, ErrNotFound) {
			how = 0
		}
		err = c.core.fail(OpGet, k, err)
	}
	tell(ctx, how)
	w.end(ctx, how, err)
	return v, err
}

// absent returns the error of a read that has found no value in Redis, where nothing
// is loaded.
func (c *Cache[K, V]) absent() error {
	if c.kind != nil && c.kind.Zero {
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
	k, err := c.enter(ctx, OpLookup, key)
	if err != nil {
		tell(ctx, 0)
		var zero V
		return zero, false, err
	}
	defer c.core.calls.leave()
	ctx, w := c.core.begin(ctx, OpLookup, k, 1)
	v, how, err := c.loader.Find(ctx, k)
	if err != nil {
		err = c.core.fail(OpLookup, k, err)
	}
	tell(ctx, how)
	w.end(ctx, how, err)
	return v, how == Hit || how == Stale, err
}
