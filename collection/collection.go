// Package collection keeps collections in Redis, by typed keys: Recent, the
// latest so many of something, Ranking, members in the order of their scores,
// Trending, what ranked within a window of time, Set, members each of which is there
// once, and Feed, a timeline for each reader.
//
//	views := cachex.Must(collection.NewRecent(rdb, collection.RecentSpec[struct{}, int64]{
//		Key: "job:views:latest",
//		TTL: time.Hour,
//		Len: 3,
//	}))
//	err := views.Push(ctx, struct{}{}, 7, 8, 9)
//	ids, err := views.Get(ctx, struct{}{}) // [9 8 7]
//
// Every write is one step of Redis: the change, the trim, and the TTL. Every Get of
// what is there is one plain command, but that of Trending, which is a script. Those
// that come while a few reads are under way on the client leave together, unless
// Spec.NoCombining is set. Each kind is a batch.Source.
//
// # With a source
//
// A Spec that has an Up restores a collection that is absent, once for the whole
// fleet, as a cachex.Cache restores a value. The source has the last word, so
// write there first, and to the collection then; only Set.Add, which says who may
// write to the source, comes before that.
//
//   - What is written to a collection that is absent is not kept in Redis: the
//     source has it, and the next reader restores all of it.
//   - What is written while a collection is being restored is kept and put before
//     what was loaded, for nobody knows whether the load had read it. So nothing is
//     lost, and what may be written twice should be such that it does not matter.
//   - What is taken out while it is being restored fences the load: nothing of it
//     is stored, and the next reader loads anew. So does a DEL by anyone, an expiry,
//     an eviction or a flush, since the lease stands in the collection itself.
//   - An empty collection is remembered as well as any other.
//
// # What is in Redis
//
// A list, a sorted set or a set, with one or two elements more than it has members:
// its head, which says whether the collection is whole. Bytes without a head were
// written by somebody else: they are a miss where there is an Up, and
// ErrForeign, left as they are, where there is none.
package collection

import (
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/loader"
)

var (
	// ErrOutcomeUnknown is cachex.ErrOutcomeUnknown: a write was sent and not
	// answered. It may have been carried out, or may be yet.
	ErrOutcomeUnknown = cachex.ErrOutcomeUnknown

	// ErrForeign says that the key holds something else than the collection, which
	// has no Up to restore it from. It was left as it is.
	ErrForeign = errors.New("the key holds something else: give the collection a template of its own")

	errNilContext = errors.New("ctx is nil")
	errUnsettled  = errors.New("it is deleted again and again while it is loaded")
)

// defaultUpTimeout is the default of every Spec.UpTimeout.
const defaultUpTimeout = time.Minute

// checkCommon returns an error for the first of the fields that all Specs have
// that is wrong, by its name.
func checkCommon[E any](rdb redis.UniversalClient, ttl, upTimeout, leaseTTL time.Duration, maxLoads int, c codec.Codec[E]) error {
	if client.Nil(rdb) {
		return errors.New("client is nil")
	}
	if ttl == 0 {
		return errors.New("Spec.TTL is required: choose one, or cachex.Forever")
	}
	if err := loader.CheckLife(ttl); err != nil {
		return fmt.Errorf("Spec.TTL: %w", err)
	}
	if err := codec.Check(c); err != nil && !errors.Is(err, codec.ErrNote) {
		return fmt.Errorf("Spec.Codec: %w", err)
	}
	switch {
	case upTimeout < time.Millisecond:
		return fmt.Errorf("Spec.UpTimeout is %v, must be at least 1ms", upTimeout)
	case leaseTTL < loader.MinLeaseTTL:
		return fmt.Errorf("Spec.LeaseTTL is %v, must be at least %v", leaseTTL, loader.MinLeaseTTL)
	case leaseTTL%time.Millisecond != 0:
		return fmt.Errorf("Spec.LeaseTTL is %v, must be whole milliseconds", leaseTTL)
	case maxLoads < 0:
		return fmt.Errorf("Spec.MaxLoads is %d, must not be negative", maxLoads)
	}
	return nil
}

// checkCompared returns an error if c cannot serve a collection that compares
// members by their bytes: a member would not be found again.
func checkCompared[E any](c codec.Codec[E]) error {
	if err := codec.Deterministic(c); err != nil {
		return fmt.Errorf("Spec.Codec: members are compared by their bytes: %w", err)
	}
	return nil
}

// millis returns a TTL as the scripts take it.
func millis(ttl time.Duration) any {
	if ttl == cachex.Forever {
		return ""
	}
	return ttl.Milliseconds()
}

// garbled is the error of a write whose reply makes no sense: Redis may have
// carried it out or not. once says that the write is sent once.
func garbled(once bool) error {
	if once {
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, errReply)
	}
	return errReply
}
