package cachex

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Set stores value as the value of key. A load of key that is under way, in any
// process, is not stored, and callers who come after Set has returned do not get
// it. Of two Sets at the same time one stays.
//
// The error is an *Error: of Redis, of the codec, of Spec.TTLFor, or the cause of
// the end of ctx. After one of the codec or of TTLFor nothing has changed. After
// one of Redis nobody knows whether the value was stored, or still will be: Set
// or Delete again.
func (c *Cache[K, V]) Set(ctx context.Context, key K, value V) error {
	k, err := c.enter(ctx, "set", key)
	if err != nil {
		return err
	}
	defer c.calls.leave()
	life, err := c.life(key, value)
	if err != nil {
		return c.fail("set", k, err)
	}
	payload, err := c.loader.Encode(k, value)
	if err != nil {
		return c.fail("set", k, err)
	}
	err = c.loader.Leases().Write(ctx, k, payload, life)
	c.loader.Forget(k) // after the write: who joins a load from now on must see it
	if err != nil {
		return c.redisFailed(ctx, "set", k, err)
	}
	return nil
}

// deleteChunk is how many keys go out in one pipeline.
const deleteChunk = 512

// Delete takes the values of keys away, and fences loads under way: after Delete
// has returned nil, no call that starts later, in any process, returns a value
// whose load began before it. A key that has no value is no error.
//
// The error is an *Error with the first key that failed, the error of Redis or
// the cause of the end of ctx. Other keys may then be deleted or not; it is safe
// to Delete them all again.
func (c *Cache[K, V]) Delete(ctx context.Context, keys ...K) error {
	if err := c.admit(ctx, "delete"); err != nil {
		return err
	}
	defer c.calls.leave()
	ks := make([]string, len(keys))
	for i, key := range keys {
		k, err := c.render(key)
		if err != nil {
			return c.fail("delete", "", err)
		}
		ks[i] = k
	}
	// After the deletion: a load that began before it may have read what is now
	// gone, and must not be joined.
	defer c.loader.Forget(ks...)
	for len(ks) > 0 {
		n := min(len(ks), deleteChunk)
		if k, err := c.unlink(ctx, ks[:n]); err != nil {
			return c.redisFailed(ctx, "delete", k, err)
		}
		ks = ks[n:]
	}
	return nil
}

// unlink sends one command a key, since keys may live on different nodes. It
// returns the first key that failed.
func (c *Cache[K, V]) unlink(ctx context.Context, keys []string) (string, error) {
	if len(keys) == 1 {
		return keys[0], c.rdb.Unlink(ctx, keys[0]).Err()
	}
	cmds, err := c.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, k := range keys {
			p.Unlink(ctx, k)
		}
		return nil
	})
	for i, cmd := range cmds {
		if cmd.Err() != nil {
			return keys[i], cmd.Err()
		}
	}
	return "", err
}

// redisFailed counts a failure of Redis and returns it.
func (c *Cache[K, V]) redisFailed(ctx context.Context, op, key string, err error) error {
	c.redisFailures.Add(1)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return c.fail(op, key, err)
}
