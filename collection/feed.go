package collection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// FeedSpec describes timelines. It is a value: NewFeed copies it and changes
// nothing.
type FeedSpec[K comparable, E any] struct {
	// Name names the collection in errors that have no key. Defaults to Key up
	// to its first placeholder.
	Name string

	// Key is the template of the Redis keys, like cachex.Spec.Key. Required,
	// unless KeyFunc is set.
	Key string

	// KeyFunc returns the Redis key, which is used unchanged, like
	// cachex.Spec.KeyFunc. Defaults to nil.
	KeyFunc func(K) string

	// TTL is the time that a timeline is kept, in whole milliseconds, or
	// cachex.Forever. With an Up it counts from the last restoration, and a
	// post does not prolong it. So timelines of inactive readers expire however
	// much is posted to them, and a lost post reappears after the TTL. Without
	// an Up it counts from the last post. Required.
	TTL time.Duration

	// Len is the maximum number of elements in a timeline, 1 to 10 000.
	// Elements beyond the first Len are dropped. Required.
	Len int

	// Score returns the sort position of an element; greater scores come first.
	// Use the time of the post, as a Unix time in milliseconds, or an ID that
	// grows. If scores are equal, the element with the greater bytes comes
	// first. An element must always have the same score, from -1e300 to 1e300.
	// Integers are exact up to 2^53. Required.
	Score func(elem E) float64

	// Codec encodes elements to the bytes kept in Redis. Elements are equal if
	// their bytes are equal, so the codec must not encrypt. Elements should be
	// IDs of values that are kept in a Cache. Defaults to codec.For[E]().
	Codec codec.Codec[E]

	// Up loads a timeline from the system of record, in any order. Elements
	// beyond the first Len are not used. It is called like RecentSpec.Up.
	// Defaults to nil: an absent timeline is empty.
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
	// cachex.Spec.NoCombining. Large timelines always have their own. Defaults
	// to false.
	NoCombining bool

	// AllowStaleReads accepts a client whose reads may be stale, like
	// cachex.Spec.AllowStaleReads. Defaults to false.
	AllowStaleReads bool
}

// Feed keeps timelines of elements of type E, by keys of type K, one for each
// reader. An author's post is added to the timelines of all followers: fan-out
// on write. An author with too many followers posts to one timeline of their
// own, and readers merge it with theirs, see [Feed.GetPage]: fan-in on read. A
// timeline has an element once, however often it was posted.
//
// A Feed is safe for concurrent use, and runs no goroutine unless a load is in
// flight. Feeds with the same template on the same Redis share their timelines.
type Feed[K comparable, E any] struct {
	store[K, []E]
	members elements[E]
	score   func(E) float64
}

// NewFeed returns the timelines that spec describes, or an error that names the
// wrong field. It does not call Redis. It does not close the client.
func NewFeed[K comparable, E any](rdb redis.UniversalClient, spec FeedSpec[K, E]) (*Feed[K, E], error) {
	f := &Feed[K, E]{score: spec.Score}
	f.up, f.limit, f.scripts = spec.Up, spec.Len, &script.Ranking
	var err error
	f.members, err = setUp(&f.store, rdb, commonSpec[K, E]{
		Name: spec.Name, Key: spec.Key, KeyFunc: spec.KeyFunc, TTL: spec.TTL, Codec: spec.Codec,
		UpTimeout: spec.UpTimeout, LeaseTTL: spec.LeaseTTL, MaxLoads: spec.MaxLoads,
		AllowStaleReads: spec.AllowStaleReads, Compared: true,
	})
	switch {
	case err != nil:
	case spec.Len < 1 || spec.Len > maxElements:
		err = fmt.Errorf("Spec.Len is %d, must be from 1 to %d: the maximum length of a timeline; a longer reply blocks the server", spec.Len, maxElements)
	case spec.Score == nil:
		err = errors.New("Spec.Score is required: for example, the time of the post")
	}
	if err != nil {
		return nil, fmt.Errorf("cachex: feed: %w", err)
	}
	f.normalize, f.clone = f.normalizeLoaded, slices.Clone[[]E]
	f.command = func(ctx context.Context, c redis.Cmdable, key string) redis.Cmder {
		return c.ZRevRange(ctx, key, 0, int64(f.limit)) // plus the head
	}
	f.parse = func(key string, reply redis.Cmder) ([]E, readState, error) {
		return f.members.parseReply(key, reply, f.up != nil)
	}
	f.subscribe()
	if !spec.NoCombining {
		f.enableBatching(f.limit + 1)
	}
	return f, nil
}

// Post adds elem to the timelines of keys, in pipelines of 500, and drops the
// elements beyond Spec.Len from each. With an Up, call it after the source was
// written: an absent timeline then stays absent, and its restoration reads the
// post from the source. For more keys than fit in a slice, and for the errors
// and guarantees, see [Feed.PostSeq].
func (f *Feed[K, E]) Post(ctx context.Context, elem E, to ...K) error {
	return f.PostSeq(ctx, elem, slices.Values(to), nil)
}

// Remove removes elem from the timelines of keys, like [Feed.RemoveSeq].
func (f *Feed[K, E]) Remove(ctx context.Context, elem E, from ...K) error {
	return f.RemoveSeq(ctx, elem, slices.Values(from), nil)
}

// Get returns the elements of the timeline of key, in their order. If the
// timeline is absent, one caller of the whole fleet calls Up, and the others
// wait, each until its own ctx ends. Without an Up, an absent timeline is
// empty.
//
// Get returns the errors of [Recent.Get].
func (f *Feed[K, E]) Get(ctx context.Context, key K) ([]E, error) { return f.get(ctx, key) }

// Delete deletes whole timelines and fences loads in flight, like
// [Recent.Delete].
func (f *Feed[K, E]) Delete(ctx context.Context, keys ...K) error { return f.deleteKeys(ctx, keys) }

// Close makes further loads fail with loader.ErrClosed and waits for loads in
// flight, like [Recent.Close].
func (f *Feed[K, E]) Close(ctx context.Context) error { return f.close(ctx) }

// position returns the position of elem in the timeline of key.
func (f *Feed[K, E]) position(key string, elem E) (position, error) {
	b, err := f.members.encodeOne(key, elem)
	if err != nil {
		return position{}, err
	}
	score, err := f.scored(elem)
	if err != nil {
		return position{}, err
	}
	if !validScore(score) {
		return position{}, errors.New("Spec.Score: a score must be from -1e+300 to 1e+300")
	}
	return position{score, b}, nil
}

// score names Spec.Score in errors.
var score = guard.Named("Spec.Score")

// scored calls Spec.Score. A panic is an error.
func (f *Feed[K, E]) scored(elem E) (n float64, err error) {
	defer guard.Catch(score, &err)
	return f.score(elem), nil
}

// normalizeLoaded returns the elements that a timeline keeps of the result of
// Up.
func (f *Feed[K, E]) normalizeLoaded(key string, all []E) ([]E, []any, error) {
	scored := make([]Scored[E], len(all))
	for i, e := range all {
		n, err := f.scored(e)
		if err != nil {
			return nil, nil, err
		}
		scored[i] = Scored[E]{e, n}
	}
	scored, args, err := f.members.sortTop(key, scored, f.limit)
	if err != nil {
		return nil, nil, err
	}
	elems := make([]E, len(scored))
	for i, s := range scored {
		elems[i] = s.Member
	}
	return elems, args, nil
}
