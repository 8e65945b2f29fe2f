// Package collection keeps collections in Redis, by typed keys:
//
//   - Recent keeps the latest elements of a list.
//
//   - Ranking keeps members in the order of their scores.
//
//   - Trending ranks members by what was added within a window of time.
//
//   - Set keeps each member once.
//
//   - Feed keeps a timeline for each reader.
//
//     views := cachex.Must(collection.NewRecent(rdb, collection.RecentSpec[struct{}, int64]{
//     Key: "job:views:latest",
//     TTL: time.Hour,
//     Len: 3,
//     }))
//     err := views.Push(ctx, struct{}{}, 7, 8, 9)
//     ids, err := views.Get(ctx, struct{}{}) // [9 8 7]
//
// A write is one atomic step in Redis: the change, the trim and the TTL. If a
// write takes several steps, its method says so. A Get that finds the
// collection sends one plain command; Trending sends a script, and reads large
// windows in parts. Unless Spec.NoCombining is set, reads issued while others
// of the client are in flight share a pipeline with them. Each type is a
// batch.Source.
//
// # With a source
//
// If a Spec has an Up, an absent collection is restored from it, once for the
// whole fleet, as a cachex.Cache restores a value. The source is authoritative:
// write to the source first, then to the collection. The exception is Set.Add,
// whose result tells the caller whether to write to the source.
//
//   - A write to an absent collection is not kept in Redis. The source has it,
//     and the next reader restores the whole collection.
//   - A write during a restoration is kept, and applied on top of the loaded
//     elements, because the load may or may not have read it. So no write is
//     lost, and a write should be harmless if it is applied twice.
//   - A removal during a restoration fences the load: its result is not stored,
//     and the next reader loads again. A DEL by any client, an expiry, an
//     eviction and a flush fence it too, since the lease is stored in the
//     collection itself.
//   - An empty collection is remembered like any other.
//
// # What is in Redis
//
// A collection is a Redis list, sorted set or set. It has one or two elements
// more than it has members: its head, which says whether the collection is
// complete. If the key has no head, another program wrote it. With an Up it
// counts as a miss and is overwritten. Without an Up the error is ErrForeign,
// and the key is left as it is.
package collection

import (
	"errors"
	"fmt"
	"time"

	"github.com/cachex-go/cachex"
)

var (
	// ErrOutcomeUnknown is cachex.ErrOutcomeUnknown: a write was sent, but its
	// reply was lost. Redis may have carried it out, or may do so later.
	ErrOutcomeUnknown = cachex.ErrOutcomeUnknown

	// ErrForeign reports that the key holds a value of another program, and
	// that there is no Up to restore the collection from. The key is left as it
	// is.
	ErrForeign = errors.New("the key holds a foreign value: give the collection its own template")

	errNilContext = errors.New("ctx is nil")
	errUnsettled  = errors.New("the collection was deleted during every load")
)

// millis returns ttl as the scripts take it.
func millis(ttl time.Duration) any {
	if ttl == cachex.Forever {
		return ""
	}
	return ttl.Milliseconds()
}

// unknownReply returns the error of a write with a malformed reply: Redis may
// have carried it out or not. once reports that the write is sent only once.
func unknownReply(once bool) error {
	if once {
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, errReply)
	}
	return errReply
}
