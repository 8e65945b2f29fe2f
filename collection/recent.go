package collection

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/script"
)

// RecentSpec describes lists of the latest elements. It is a value: NewRecent
// copies it and changes nothing.
type RecentSpec[K comparable, E any] struct {
	// Name names the collection in errors that have no key. Defaults to Key up
	// to its first placeholder.
	Name string

	// Key is the template of the Redis keys, like cachex.Spec.Key. Required,
	// unless KeyFunc is set.
	Key string

	// KeyFunc returns the Redis key, which is used unchanged, like
	// cachex.Spec.KeyFunc. Defaults to nil.
	KeyFunc func(K) string

	// TTL is the time that a list is kept after the last write or restoration,
	// in whole milliseconds, or cachex.Forever. Required.
	TTL time.Duration

	// Len is the maximum number of elements in a list, 1 to 10 000: the latest
	// ones. Required.
	Len int

	// Unique makes a list keep each element once: pushing an element again
	// moves it to the front. Elements are equal if their encoded bytes are
	// equal, so the Codec must not encrypt. Each push then searches the list.
	// Defaults to false.
	Unique bool

	// Codec encodes elements to the bytes kept in Redis. Defaults to
	// codec.For[E]().
	Codec codec.Codec[E]

	// Up loads a list from the system of record, latest element first. Elements
	// beyond Len are not used. An empty result is remembered like any other. It
	// is called like cachex.Spec.Up: once for the fleet. It must be safe for
	// concurrent use. Defaults to nil: an absent list is empty.
	Up func(ctx context.Context, key K) ([]E, error)

	// UpTimeout bounds one load, including the wait for a load of another
	// process. Defaults to a minute.
	UpTimeout time.Duration

	// LeaseTTL is the time that the fleet waits for a process that died in Up,
	// at least 100 ms. The lease is renewed while Up runs. Defaults to 3 s.
	LeaseTTL time.Duration

	// MaxLoads limits the concurrent calls of Up in this process. Further loads
	// wait for a running one to end, within UpTimeout. Defaults to 0: no limit.
	MaxLoads int

	// NoCombining makes every Get send its own command, like
	// cachex.Spec.NoCombining. Large lists always have their own. Defaults to
	// false.
	NoCombining bool

	// AllowStaleReads accepts a client whose reads may be stale, like
	// cachex.Spec.AllowStaleReads. Defaults to false.
	AllowStaleReads bool
}

// maxElements is the maximum number of elements that one read may return.
// Reading them, or searching a list for one, blocks the server for other
// clients.
const maxElements = 10_000

// maxPage and maxAround are smaller than maxElements: a script takes longer for
// each member that it returns than a plain command.
const (
	maxPage   = 1000 // elements of a page of a feed
	maxAround = 500  // members before a member, and after it
)

// Recent keeps the latest elements of type E by keys of type K. It is safe for
// concurrent use, and runs no goroutine unless a load is in flight. Recents
// with the same template on the same Redis share their lists.
type Recent[K comparable, E any] struct {
	store[K, []E]
	members elements[E]
}

// NewRecent returns the lists that spec describes, or an error that names the
// wrong field. It does not call Redis. It does not close the client.
func NewRecent[K comparable, E any](rdb redis.UniversalClient, spec RecentSpec[K, E]) (*Recent[K, E], error) {
	r := &Recent[K, E]{}
	r.up, r.unique, r.limit, r.scripts = spec.Up, spec.Unique, spec.Len, &script.List
	var err error
	r.members, err = setUp(&r.store, rdb, commonSpec[K, E]{
		Name: spec.Name, Key: spec.Key, KeyFunc: spec.KeyFunc, TTL: spec.TTL, Codec: spec.Codec,
		UpTimeout: spec.UpTimeout, LeaseTTL: spec.LeaseTTL, MaxLoads: spec.MaxLoads,
		AllowStaleReads: spec.AllowStaleReads, Compared: spec.Unique,
	})
	if err == nil && (spec.Len < 1 || spec.Len > maxElements) {
		err = fmt.Errorf("Spec.Len is %d, must be from 1 to %d: the maximum length of a list; a longer reply blocks the server", spec.Len, maxElements)
	}
	if err != nil {
		return nil, fmt.Errorf("cachex: recent: %w", err)
	}
	r.normalize = func(key string, elems []E) ([]E, []any, error) {
		elems = elems[:min(len(elems), r.limit)]
		args, err := r.members.encode(nil, key, elems)
		return elems, args, err
	}
	r.clone = slices.Clone[[]E]
	r.command = func(ctx context.Context, c redis.Cmdable, key string) redis.Cmder {
		return c.LRange(ctx, key, 0, int64(r.limit)) // plus the head
	}
	r.parse = func(key string, reply redis.Cmder) ([]E, readState, error) {
		return r.members.parseReply(key, reply, r.up != nil)
	}
	r.subscribe()
	if !spec.NoCombining {
		r.enableBatching(r.limit + 1)
	}
	return r, nil
}

// Push puts elems at the front of the list of key, so that the last of elems
// comes first, and drops the elements beyond Spec.Len. With an Up, call it
// after the source was written; an absent list stays absent.
//
// With Spec.Unique, Push searches the list for each of elems. One step searches
// for a few: 40 if Len is 1,000, 4 if it is 10,000. A reader may see the list
// between two steps.
//
// The error is a *cachex.Error: of Redis, of the codec, or the cause of the end
// of ctx. If it is ErrOutcomeUnknown, all or none of the elements of a step are
// in the list; with Spec.Unique it is safe to push them again. After any other
// error the failed step has changed nothing. The earlier steps are complete,
// and later ones were not sent.
func (r *Recent[K, E]) Push(ctx context.Context, key K, elems ...E) error {
	k, err := r.begin(ctx, "push", key)
	if err != nil || len(elems) == 0 {
		return err
	}
	args, err := r.encodePush(k, elems)
	for size := r.elementsPerStep(); err == nil && len(args) > 0; {
		chunk := args
		if r.unique {
			chunk = args[:min(len(args), size)]
		}
		args = args[len(chunk):]
		var state int64
		head := []any{r.up != nil, r.limit, millis(r.ttl), r.unique}
		if state, err = r.runInt(ctx, script.Push, k, append(head, chunk...)); err == nil && state > 2 {
			err = unknownReply(script.Push.Late().Once)
		}
	}
	if err != nil {
		return r.fail("push", k, err)
	}
	return nil
}

// maxComparisons is the number of list elements that one script may visit. It
// takes the server one to three milliseconds.
const maxComparisons = 40_000

// elementsPerStep returns the number of elements that one script searches a
// list for.
func (r *Recent[K, E]) elementsPerStep() int { return max(maxComparisons/r.limit, 1) }

// encodePush returns the members that Push puts into the list of k.
func (r *Recent[K, E]) encodePush(k string, elems []E) ([]any, error) {
	if !r.unique {
		elems = elems[max(0, len(elems)-r.limit):]
	}
	all, err := r.members.encode(nil, k, elems)
	if err != nil {
		return nil, err
	}
	if r.unique {
		all = dropEarlier(all)
		all = all[max(0, len(all)-r.limit):]
	}
	return all, nil
}

// dropEarlier removes all but the last of equal elements, and keeps the order.
func dropEarlier(all []any) []any {
	seen := make(map[any]bool, len(all))
	kept := len(all)
	for i := len(all) - 1; i >= 0; i-- {
		if !seen[all[i]] {
			seen[all[i]] = true
			kept--
			all[kept] = all[i]
		}
	}
	return all[kept:]
}

// Remove removes all occurrences of elems from the list of key. Absent elements
// are not an error. If a load is in flight that may have read them, its result
// is not stored. One step removes as many elements as Push searches for.
//
// It fails like [Recent.Push], with a *cachex.Error; it is safe to remove
// them again. If the codec is not deterministic, like codec.Encrypt, no element
// can be found by its bytes, and the error is a codec.ErrConfig.
func (r *Recent[K, E]) Remove(ctx context.Context, key K, elems ...E) error {
	k, err := r.begin(ctx, "remove", key)
	if err != nil || len(elems) == 0 {
		return err
	}
	if err := checkCompared[E](r.members.codec); err != nil {
		return r.fail("remove", k, err)
	}
	args, err := r.members.encode(nil, k, elems)
	if err == nil {
		err = r.removeElements(ctx, script.Pull, k, []any{r.up != nil, millis(r.ttl)}, dropEarlier(args), r.elementsPerStep())
	}
	r.flights.Forget(k)
	if err != nil {
		return r.fail("remove", k, err)
	}
	return nil
}

// Get returns the elements of the list of key, latest first. If the list is
// absent, one caller of the whole fleet calls Up, and the others wait, each
// until its own ctx ends. Without an Up, an absent list is empty.
//
// The error is a *cachex.Error: of Up, a *loader.PanicError or the like, or the
// cause of the end of ctx. In these cases nothing is stored, and the next
// reader loads. If Redis fails, Get returns an error only without an Up. With
// an Up, each process calls Up once and stores nothing.
func (r *Recent[K, E]) Get(ctx context.Context, key K) ([]E, error) { return r.get(ctx, key) }

// Delete deletes lists and fences loads in flight. After Delete has returned
// nil, no later call of Get, in any process, returns the result of a load that
// began before the deletion. A key without a list is not an error.
//
// The error is a *cachex.Error with the first key that failed. It is safe to
// Delete all again.
func (r *Recent[K, E]) Delete(ctx context.Context, keys ...K) error { return r.deleteKeys(ctx, keys) }

// Close makes further loads fail with loader.ErrClosed. It waits for loads in
// flight, and for reads that their callers have abandoned. If ctx ends first,
// Close cancels the loads and returns the cause. Collections in Redis can still
// be read. Close does not close the client. It may be called more than once.
func (r *Recent[K, E]) Close(ctx context.Context) error { return r.close(ctx) }
