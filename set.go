package cachex

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/loader"
)

// Set stores value as the value of key, after Spec.Down, if there is one, has
// persisted it. Without Down it is one round trip, which those share who write while a
// few others do, see Spec.NoCombining. A load of key that is under way, in any process,
// is not stored, and callers who come after Set has returned do not get it. Of two Sets
// at the same time one stays in Redis; with Down, the one that the source has, or none.
//
// The error is an *Error: of Down, of Redis, of the codec, of Spec.TTLFor, or the
// cause of the end of ctx.
//
//   - After one of the codec or of TTLFor nothing has changed, and Down was not
//     called.
//   - After one of Down nobody knows what the source has. What was in Redis is
//     expired, so that the next reader loads.
//   - After one of Redis nobody knows whether it was stored, or still will be: Set
//     or Delete again. If there is a Down, the value is persisted. What cannot be
//     stored then is deleted, which is no error; so an error says that what was in
//     Redis before may still be there.
func (c *Cache[K, V]) Set(ctx context.Context, key K, value V) error {
	k, err := c.enter(ctx, OpSet, key)
	if err != nil {
		return err
	}
	defer c.calls.leave()
	ctx, w := c.begin(ctx, OpSet, k, 1)
	err = c.set(ctx, key, k, value)
	w.end(ctx, 0, err)
	return err
}

func (c *Cache[K, V]) set(ctx context.Context, key K, k string, value V) error {
	writing, err := c.writing(key, k, value)
	if err != nil {
		return c.fail(OpSet, k, err)
	}
	switch {
	case c.engine != nil && c.kind != nil:
		return c.wrote(ctx, OpSet, []string{k}, c.setBehindBy(ctx, []K{key}, []V{value}))
	case c.engine != nil:
		return c.wrote(ctx, OpSet, []string{k}, c.setBehind(ctx, []loader.Writing{writing}))
	}
	if c.spec.Down != nil {
		errs := c.loader.WriteThrough(ctx, []loader.Writing{writing}, func(ctx context.Context) []error {
			return []error{c.down(ctx, key, value)}
		})
		return c.wrote(ctx, OpSet, []string{k}, errs)
	}
	began := time.Now()
	err = c.loader.Write(ctx, writing)
	c.loader.Note(ctx, k, began, err)
	c.loader.Forget(k) // after the write: who joins a load from now on must see it
	if err != nil {
		return c.redisFailed(ctx, OpSet, k, err)
	}
	return nil
}

// SetMany is Set for several values, in one round trip for each 500; with Down in
// two, and one call of DownMany between them. Without DownMany, Down is called for
// one after the other. More values than Spec.MaxKeys are persisted and stored in chunks
// of so many, one after the other, and DownMany is called for each.
//
// The error is an *Error with the first key that failed, in no order. Other values
// may then be set or not; it is safe to set them all again. If the codec or
// Spec.TTLFor fails for one, nothing is set.
func (c *Cache[K, V]) SetMany(ctx context.Context, values map[K]V) error {
	if len(values) > c.spec.MaxKeys {
		return c.setChunks(ctx, values)
	}
	ws, keys := make([]loader.Writing, 0, len(values)), make([]K, 0, len(values))
	for key, value := range values {
		w, err := c.writingOf(key, value)
		if err != nil {
			return err
		}
		ws, keys = append(ws, w), append(keys, key)
	}
	if err := c.admit(ctx, OpSetMany); err != nil || len(ws) == 0 {
		if err == nil {
			c.calls.leave()
		}
		return err
	}
	defer c.calls.leave()
	ctx, w := c.begin(ctx, OpSetMany, ws[0].Key, len(ws))
	err := c.setSome(ctx, ws, keys, values)
	w.end(ctx, 0, err)
	return err
}

// writingOf returns what is to be written for a value of SetMany, or its error.
func (c *Cache[K, V]) writingOf(key K, value V) (loader.Writing, error) {
	k, err := c.render(key)
	if err != nil {
		return loader.Writing{}, c.fail(OpSetMany, "", err)
	}
	w, err := c.writing(key, k, value)
	if err != nil {
		return w, c.fail(OpSetMany, k, err)
	}
	return w, nil
}

// setSome sets the values of keys, and returns the first error.
func (c *Cache[K, V]) setSome(ctx context.Context, ws []loader.Writing, keys []K, values map[K]V) error {
	ks := make([]string, len(ws))
	for i, w := range ws {
		ks[i] = w.Key
	}
	var errs []error
	switch {
	case c.engine != nil && c.kind != nil:
		all := make([]V, len(keys))
		for i, key := range keys {
			all[i] = values[key]
		}
		errs = c.setBehindBy(ctx, keys, all)
	case c.engine != nil:
		errs = c.setBehind(ctx, ws)
	case c.spec.Down == nil:
		began := time.Now()
		errs = c.loader.Leases().WriteMany(ctx, ws)
		c.loader.Note(ctx, ks[0], began, errs[0])
		c.loader.Forget(ks...)
	default:
		errs = c.loader.WriteThrough(ctx, ws, func(ctx context.Context) []error { return c.downMany(ctx, keys, values) })
	}
	return c.wrote(ctx, OpSetMany, ks, errs)
}

// writing returns what is to be written for a value.
func (c *Cache[K, V]) writing(key K, k string, value V) (loader.Writing, error) {
	life, err := c.life(key, value)
	if err != nil {
		return loader.Writing{}, err
	}
	return c.loader.Writing(k, value, life)
}

// wrote returns the first error of a write.
func (c *Cache[K, V]) wrote(ctx context.Context, op string, ks []string, errs []error) error {
	for i, err := range errs {
		switch _, down := errors.AsType[*downError](err); {
		case err == nil:
		case down:
			return c.fail(op, ks[i], err)
		default:
			return c.redisFailed(ctx, op, ks[i], err)
		}
	}
	return nil
}

// A downError is one of Spec.Down, and not of Redis.
type downError struct{ err error }

// Error says whose error it is.
func (e *downError) Error() string { return "Spec.Down: " + e.err.Error() }

// Unwrap returns that error.
func (e *downError) Unwrap() error { return e.err }

// down calls Spec.Down. Its panic is an error.
func (c *Cache[K, V]) down(ctx context.Context, key K, value V) error {
	if err := guard.Call(it, func() error { return c.spec.Down(ctx, key, value) }); err != nil {
		return &downError{err}
	}
	return nil
}

// it names Spec.Down in a downError, which begins with that name.
var it = guard.Named("it")

// downMany calls Spec.DownMany, or Down for each key. It returns an error for each.
func (c *Cache[K, V]) downMany(ctx context.Context, keys []K, values map[K]V) []error {
	errs := make([]error, len(keys))
	if c.spec.DownMany == nil {
		for i, key := range keys {
			errs[i] = c.down(ctx, key, values[key])
		}
		return errs
	}
	err := guard.Call(it, func() error { return c.spec.DownMany(ctx, values) })
	if err != nil {
		for i := range errs {
			errs[i] = &downError{err}
		}
	}
	return errs
}

// Expire makes the values of keys stale, and keeps them: the next reader has one
// process reload, and is served the stale value meanwhile if
// Spec.StaleWhileRevalidate, counted from now, allows that. What a load under way
// is going to store is stale too, and is for callers who came before: without
// Spec.StaleWhileRevalidate, those who come after Expire has returned wait for a
// load that began later, in the process that was loading too. A key without a
// value is no error; that Redis knows that there is none is forgotten. A value of
// a cache that serves no stale values is as good as deleted.
//
// The error is as that of Delete.
func (c *Cache[K, V]) Expire(ctx context.Context, keys ...K) error {
	return c.each(ctx, OpExpire, keys, func(ctx context.Context, ks []string) (string, error) {
		for i, err := range c.loader.Leases().ExpireMany(ctx, ks) {
			if err != nil {
				return ks[i], err
			}
		}
		return "", nil
	})
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
	return c.each(ctx, OpDelete, keys, c.unlink)
}

// each does something to keys in Redis, some at a time. do returns the first key
// that failed.
func (c *Cache[K, V]) each(ctx context.Context, op string, keys []K, do func(context.Context, []string) (string, error)) error {
	if err := c.admit(ctx, op); err != nil {
		return err
	}
	defer c.calls.leave()
	ks := make([]string, len(keys))
	for i, key := range keys {
		k, err := c.render(key)
		if err != nil {
			return c.fail(op, "", err)
		}
		ks[i] = k
	}
	if len(ks) == 0 {
		return nil
	}
	ctx, w := c.begin(ctx, op, ks[0], len(ks))
	// Afterwards: a load that began before may have read what is now out of date,
	// and must not be joined.
	defer c.loader.Forget(ks...)
	var err error
	for some := range slices.Chunk(ks, deleteChunk) {
		began := time.Now()
		k, failed := do(ctx, some)
		c.loader.Note(ctx, cmp.Or(k, some[0]), began, failed)
		if failed != nil {
			err = c.redisFailed(ctx, op, k, failed)
			break
		}
	}
	w.end(ctx, 0, err)
	return err
}

// unlink returns the first key that failed.
func (c *Cache[K, V]) unlink(ctx context.Context, keys []string) (string, error) {
	for i, err := range c.loader.Delete(ctx, keys) {
		if err != nil {
			return keys[i], err
		}
	}
	return "", nil
}

// redisFailed counts a failure of Redis and returns it.
func (c *Cache[K, V]) redisFailed(ctx context.Context, op, key string, err error) error {
	c.redisFailures.Add(1)
	return c.fail(op, key, script.Cause(ctx, err))
}
