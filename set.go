package cachex

import (
	"context"

	"github.com/cachex-go/cachex/internal/guard"
)

// Set stores value under key. If Spec.Down is set, Down persists the value
// first. Without Down, Set is one round trip, which concurrent writers share:
// see Spec.NoCombining. A load of key in flight, in any process, is not stored,
// and callers that start after Set has returned do not get its result. If two
// Sets run at the same time, one of the values stays in Redis. With Down, the
// value that stays is the one in the source, or none.
//
// The error is an *Error: an error of Down, Redis, the codec or Spec.TTLFor, or
// the cause of the end of ctx.
//
//   - If the codec or TTLFor fails, nothing has changed, and Down was not
//     called.
//   - If Down fails, the state of the source is unknown. The entry in Redis is
//     expired, so that the next reader loads.
//   - If Redis fails, the value may or may not have been stored, and may still
//     be stored later. Call Set or Delete again. If Down is set, the value is
//     persisted. If it cannot be stored then, the entry is deleted, and Set
//     returns nil. So an error means that the old entry may still be in Redis.
func (c *Cache[K, V]) Set(ctx context.Context, key K, value V) error {
	box := c.typed.getBox(value)
	err := c.keyed.set(ctx, key, box)
	c.typed.putBox(box)
	return err
}

// SetMany is Set for several values, in one round trip per 500 values. With
// Down it takes two round trips, and one call of DownMany between them. Without
// DownMany, Down is called for one value after the other. More values than
// Spec.MaxKeys are persisted and stored in chunks, one after the other, with
// one call of DownMany each.
//
// The error is an *Error with the first key that failed, in no particular
// order. Any of the other values may then be set or not; it is safe to set them
// all again. If the codec or Spec.TTLFor fails for one value, nothing is set.
func (c *Cache[K, V]) SetMany(ctx context.Context, values map[K]V) error {
	return c.keyed.setMany(ctx, len(values), c.boxSeq(values))
}

// downError is an error of Spec.Down, as opposed to one of Redis.
type downError struct{ err error }

// Error names Spec.Down as the origin of the error.
func (e *downError) Error() string { return "Spec.Down: " + e.err.Error() }

// Unwrap returns the error of Spec.Down.
func (e *downError) Unwrap() error { return e.err }

// downCode names Spec.Down in a downError, whose text already begins with that
// name.
var downCode = guard.Named("it")

// callDown calls Spec.Down or DownMany, and returns a panic as an error.
func callDown(call func() error) error {
	if err := guard.Call(downCode, call); err != nil {
		return &downError{err}
	}
	return nil
}

// persistEach persists n values. If many is not nil, it persists all of them;
// otherwise one(i) persists the i-th. It returns an error for each value.
func persistEach(n int, one func(i int) error, many func() error) []error {
	errs := make([]error, n)
	if many == nil {
		for i := range errs {
			errs[i] = callDown(func() error { return one(i) })
		}
		return errs
	}
	if err := callDown(many); err != nil {
		for i := range errs {
			errs[i] = err
		}
	}
	return errs
}

// Expire makes the values of keys stale and keeps them. The next reader makes
// one process reload. That reader gets the stale value at once if
// Spec.StaleWhileRevalidate, counted from now, allows it.
//
// The result of a load in flight is stored as stale, and goes to callers that
// came before. Without Spec.StaleWhileRevalidate, callers that start after
// Expire has returned wait for a load that began later, in the loading process
// too. Missing keys are ignored, and a remembered ErrNotFound is dropped. If
// neither StaleWhileRevalidate nor StaleIfError is set, Expire acts like
// Delete.
//
// Errors are as in [Cache.Delete].
func (c *Cache[K, V]) Expire(ctx context.Context, keys ...K) error {
	return c.keyed.forChunks(ctx, OpExpire, keys, c.keyed.core.expire)
}

// deleteChunk is the number of keys in one pipeline.
const deleteChunk = 512

// Delete removes the values of keys and fences loads in flight. After Delete
// has returned nil, no call that starts later, in any process, returns a value
// whose load began before the Delete. Missing keys are ignored.
//
// The error is an *Error with the first key that failed: the error of Redis or
// the cause of the end of ctx. Any of the other keys may then be deleted or
// not; it is safe to delete them all again.
func (c *Cache[K, V]) Delete(ctx context.Context, keys ...K) error {
	return c.keyed.forChunks(ctx, OpDelete, keys, c.keyed.core.unlink)
}
