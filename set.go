package cachex

import (
	"context"

	"github.com/cachex-go/cachex/internal/guard"
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
	box := c.typed.getBox(value)
	err := c.keyed.set(ctx, key, box)
	c.typed.putBox(box)
	return err
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
	return c.keyed.setMany(ctx, len(values), c.boxSeq(values))
}

// A downError is one of Spec.Down, and not of Redis.
type downError struct{ err error }

// Error says whose error it is.
func (e *downError) Error() string { return "Spec.Down: " + e.err.Error() }

// Unwrap returns that error.
func (e *downError) Unwrap() error { return e.err }

// it names Spec.Down in a downError, which begins with that name.
var downCode = guard.Named("it")

// persisted calls one of Spec.Down or DownMany. Its panic is an error.
func callDown(call func() error) error {
	if err := guard.Call(downCode, call); err != nil {
		return &downError{err}
	}
	return nil
}

// persistEach persists n values: all by many if that is set, else the i-th by one. It
// returns an error for each.
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
	return c.keyed.forChunks(ctx, OpExpire, keys, c.keyed.core.expire)
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
	return c.keyed.forChunks(ctx, OpDelete, keys, c.keyed.core.unlink)
}
