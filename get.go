package cachex

import (
	"context"

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
// The error is an *Error: ErrNotFound if there is no value, the error of Up, or
// the cause of the end of ctx. Where Redis fails, Up is called without it, once
// at a time in this process, nothing is stored, and Stats count it; without Up
// it is the error of Redis. Bytes in Redis that cannot be used are a miss, and
// are overwritten.
func (c *Cache[K, V]) Get(ctx context.Context, key K) (V, error) {
	var zero V
	k, err := c.enter(ctx, "get", key)
	if err != nil {
		return zero, err
	}
	defer c.calls.leave()
	if c.up == nil {
		v, ok, err := c.loader.Lookup(ctx, k)
		if err == nil && !ok {
			err = ErrNotFound
		}
		if err != nil {
			return zero, c.fail("get", k, err)
		}
		return v, nil
	}
	v, _, err := loader.GetWith(ctx, c.loader, k, key, c.load)
	if err != nil {
		return zero, c.fail("get", k, err)
	}
	return v, nil
}

// restore calls Up. It is the load of every flight.
func (c *Cache[K, V]) restore(ctx context.Context, key K) (V, loader.Life, error) {
	v, err := c.up(ctx, key)
	if err != nil {
		return v, loader.Life{}, err
	}
	life, err := c.life(key, v)
	if err != nil {
		life = loader.Life{} // which is too short: the value is returned, not stored, and counted
	}
	return v, life, nil
}

// Lookup returns the value of key in Redis, and whether there is one. It never
// loads, and does not wait for a load.
//
// The error is an *Error, of Redis or of the end of ctx. Bytes in Redis that
// cannot be used are no value, and stay.
func (c *Cache[K, V]) Lookup(ctx context.Context, key K) (V, bool, error) {
	var zero V
	k, err := c.enter(ctx, "lookup", key)
	if err != nil {
		return zero, false, err
	}
	defer c.calls.leave()
	v, ok, err := c.loader.Lookup(ctx, k)
	if err != nil {
		return zero, false, c.fail("lookup", k, err)
	}
	return v, ok, nil
}
