package cachex

import (
	"context"

	"github.com/cachex-go/cachex/internal/guard"
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
	defer c.core.calls.leave()
	ctx, w := c.core.begin(ctx, OpSet, k, 1)
	err = c.set(ctx, key, k, value)
	w.end(ctx, 0, err)
	return err
}

func (c *Cache[K, V]) set(ctx context.Context, key K, k string, value V) error {
	writing, err := c.writing(key, k, value)
	if err != nil {
		return c.core.fail(OpSet, k, err)
	}
	switch {
	case c.core.engine != nil && c.kind != nil:
		return c.core.wrote(ctx, OpSet, []string{k}, setBehindBy(ctx, &c.core, c.kind, []K{key}, []int64{count(value)}, c.render))
	case c.core.engine != nil:
		return c.core.wrote(ctx, OpSet, []string{k}, c.core.setBehind(ctx, []loader.Writing{writing}))
	}
	if c.spec.Down != nil {
		errs := c.core.loads.WriteThrough(ctx, []loader.Writing{writing}, func(ctx context.Context) []error {
			return []error{c.down(ctx, key, value)}
		})
		return c.core.wrote(ctx, OpSet, []string{k}, errs)
	}
	return c.core.write(ctx, writing)
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
	if len(values) > c.core.settings.maxKeys {
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
	if err := c.core.admit(ctx, OpSetMany); err != nil || len(ws) == 0 {
		if err == nil {
			c.core.calls.leave()
		}
		return err
	}
	defer c.core.calls.leave()
	ctx, w := c.core.begin(ctx, OpSetMany, ws[0].Key, len(ws))
	err := c.setSome(ctx, ws, keys, values)
	w.end(ctx, 0, err)
	return err
}

// writingOf returns what is to be written for a value of SetMany, or its error.
func (c *Cache[K, V]) writingOf(key K, value V) (loader.Writing, error) {
	k, err := c.render(key)
	if err != nil {
		return loader.Writing{}, c.core.fail(OpSetMany, "", err)
	}
	w, err := c.writing(key, k, value)
	if err != nil {
		return w, c.core.fail(OpSetMany, k, err)
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
	case c.core.engine != nil && c.kind != nil:
		counts := make([]int64, len(keys))
		for i, key := range keys {
			counts[i] = count(values[key])
		}
		errs = setBehindBy(ctx, &c.core, c.kind, keys, counts, c.render)
	case c.core.engine != nil:
		errs = c.core.setBehind(ctx, ws)
	case c.spec.Down == nil:
		errs = c.core.writeMany(ctx, ws, ks)
	default:
		errs = c.core.loads.WriteThrough(ctx, ws, func(ctx context.Context) []error { return c.downMany(ctx, keys, values) })
	}
	return c.core.wrote(ctx, OpSetMany, ks, errs)
}

// count returns the value of a cache of a kind.
func count(value any) int64 {
	n, _ := value.(int64)
	return n
}

// writing returns what is to be written for a value.
func (c *Cache[K, V]) writing(key K, k string, value V) (loader.Writing, error) {
	life, err := c.life(key, value)
	if err != nil {
		return loader.Writing{}, err
	}
	return c.loader.Writing(k, value, life)
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
	return c.core.each(ctx, OpExpire, len(keys), func(i int) (string, error) { return c.render(keys[i]) }, c.core.expire)
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
	return c.core.each(ctx, OpDelete, len(keys), func(i int) (string, error) { return c.render(keys[i]) }, c.core.unlink)
}
