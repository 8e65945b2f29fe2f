package collection

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// A FeedSpec describes timelines. It is a value: NewFeed copies it and changes
// nothing.
type FeedSpec[K comparable, E any] struct {
	// Name is the name of the collection in errors that have no key. Defaults to Key
	// up to its first placeholder.
	Name string

	// Key is the template of the keys in Redis, as that of cachex.Spec. Required,
	// unless KeyFunc is set.
	Key string

	// KeyFunc returns the key in Redis, as it stands, as that of cachex.Spec.
	// Defaults to nil.
	KeyFunc func(K) string

	// TTL is how long a timeline is kept, in whole milliseconds, or cachex.Forever:
	// with an Up after it was restored, for to post to it does not prolong it. So the
	// timelines of those who read them no more go away however much is posted to
	// them, and a post that was lost is there when the TTL is over. Without an Up it
	// counts from the last post. Required.
	TTL time.Duration

	// Len is how many elements a timeline has at most, 1 to 10 000: those that come
	// first. Required.
	Len int

	// Score says where an element stands: the greater comes first. It is the time at
	// which it was posted, as a Unix time in milliseconds, or an ID that grows. Of
	// elements with the same score, the one whose bytes are greater comes first. An
	// element must have the same score always, from -1e300 to 1e300; integers are
	// exact up to 2^53. Required.
	Score func(elem E) float64

	// Codec turns elements into the bytes that Redis keeps. Elements are the same if
	// it makes the same bytes of them, so it must not be one that encrypts. Best is
	// that an element is an ID, and what it names lies in a Cache. Defaults to
	// codec.For[E]().
	Codec codec.Codec[E]

	// Up restores a timeline from the system of record, in any order. What comes after
	// the first Len is not used. It is called as that of RecentSpec is. Defaults to
	// nil: a timeline that is absent is empty.
	Up func(ctx context.Context, key K) ([]E, error)

	// UpTimeout bounds one load, with the wait for one elsewhere. Defaults to a
	// minute.
	UpTimeout time.Duration

	// LeaseTTL is how long the fleet waits for a process that died in Up, at least
	// 100 ms. A lease is renewed while Up runs. Defaults to 3 s.
	LeaseTTL time.Duration

	// MaxLoads is how many calls of Up run at once in this process. The others wait
	// for one to end, within UpTimeout. Defaults to 0: no limit.
	MaxLoads int

	// NoCombining has every Get send its read by itself. Defaults to false: a lone one
	// goes out at once, and those that come while a few are under way on the client leave
	// together, with what caches and other collections read, as one pipeline, or as one for
	// each node of a Cluster or Ring. Each caller leaves on its own ctx and gets its own
	// error, and large timelines go alone.
	NoCombining bool

	// AllowStaleReads accepts a client whose reads may be stale, like the field of cachex.Spec.
	// Defaults to false.
	AllowStaleReads bool
}

// A Feed keeps timelines of elements of type E by keys of type K, which are those
// of their readers. What somebody posts is put into the timelines of all who follow
// him: fan-out on write. One whose followers are too many posts to a timeline of
// his own, and readers merge that with theirs, see GetPage: fan-in on read. An
// element is there once, however often it was posted.
//
// It is safe for concurrent use, and owns no goroutine while nothing is being
// loaded. Feeds with the same template on the same Redis share their timelines.
type Feed[K comparable, E any] struct {
	home[K, []E]
	members members[E]
	score   func(E) float64
}

// NewFeed returns the timelines that spec describes, or an error that names the
// field that is wrong. It makes no call to Redis. The client stays the caller's.
func NewFeed[K comparable, E any](rdb redis.UniversalClient, spec FeedSpec[K, E]) (*Feed[K, E], error) {
	if spec.Codec == nil {
		spec.Codec = codec.For[E]()
	}
	spec.UpTimeout = cmp.Or(spec.UpTimeout, defaultUpTimeout)
	spec.LeaseTTL = cmp.Or(spec.LeaseTTL, defaults.LeaseTTL())
	f := &Feed[K, E]{members: members[E]{codec.Bind(spec.Codec)}, score: spec.Score}
	f.up, f.most, f.scripts = spec.Up, spec.Len, &script.Ranking
	err := f.settle(rdb, commonSpec[K]{spec.Name, spec.Key, spec.KeyFunc, spec.TTL, spec.UpTimeout, spec.LeaseTTL, spec.MaxLoads, spec.AllowStaleReads})
	if err == nil {
		err = checkCommon(rdb, spec.TTL, spec.UpTimeout, spec.LeaseTTL, spec.MaxLoads, spec.Codec)
	}
	if err == nil {
		err = checkCompared(spec.Codec)
	}
	switch {
	case err != nil:
	case spec.Len < 1 || spec.Len > maxLen:
		err = fmt.Errorf("Spec.Len is %d, must be from 1 to %d: how many elements a timeline has at most, since every read of it keeps the server from others", spec.Len, maxLen)
	case spec.Score == nil:
		err = errors.New("Spec.Score is required: when an element was posted, say")
	}
	if err != nil {
		return nil, fmt.Errorf("cachex: feed: %w", err)
	}
	f.tidy, f.first = f.tidied, slices.Clone[[]E]
	f.ask = func(ctx context.Context, c redis.Cmdable, key string) redis.Cmder {
		return c.ZRevRange(ctx, key, 0, int64(f.most)) // and the head
	}
	f.open = func(key string, reply redis.Cmder) ([]E, sight, error) {
		return f.members.open(key, reply, f.up != nil)
	}
	f.listen()
	if !spec.NoCombining {
		f.combine(f.most + 1)
	}
	return f, nil
}

// Post puts elem into the timelines of keys, in pipelines of 500, and drops from
// each what is more than Spec.Len. With an Up it is to be called after the source
// was written; a timeline that is absent then stays so, and is restored with it.
// See PostSeq for keys that are too many for a slice, which says all else.
func (f *Feed[K, E]) Post(ctx context.Context, elem E, to ...K) error {
	return f.PostSeq(ctx, elem, slices.Values(to), nil)
}

// Remove takes elem out of the timelines of keys, as RemoveSeq does.
func (f *Feed[K, E]) Remove(ctx context.Context, elem E, from ...K) error {
	return f.RemoveSeq(ctx, elem, slices.Values(from), nil)
}

// Get returns the elements of the timeline of key, in their order: from Redis, or
// from Up, which one caller of the whole fleet calls while the others wait, each as
// long as its ctx allows. Without an Up, a timeline that is absent is empty.
//
// The error is a *cachex.Error, as that of Recent.Get.
func (f *Feed[K, E]) Get(ctx context.Context, key K) ([]E, error) { return f.get(ctx, key) }

// Delete takes whole timelines away, and fences loads under way, as Recent.Delete
// does.
func (f *Feed[K, E]) Delete(ctx context.Context, keys ...K) error { return f.remove(ctx, keys) }

// Close makes every further load loader.ErrClosed and waits for those under way,
// as Recent.Close does.
func (f *Feed[K, E]) Close(ctx context.Context) error { return f.close(ctx) }

// place returns where an element stands.
func (f *Feed[K, E]) place(key string, elem E) (place, error) {
	b, err := f.members.one(key, elem)
	if err != nil {
		return place{}, err
	}
	score, err := f.scored(elem)
	if err != nil {
		return place{}, err
	}
	if !fits(score) {
		return place{}, errors.New("Spec.Score: a score must be from -1e+300 to 1e+300")
	}
	return place{score, b}, nil
}

// score names Spec.Score in errors.
var score = guard.Named("Spec.Score")

// scored calls Spec.Score.
func (f *Feed[K, E]) scored(elem E) (n float64, err error) {
	defer guard.Catch(score, &err)
	return f.score(elem), nil
}

// tidied returns what a timeline has of the elements that Up has returned.
func (f *Feed[K, E]) tidied(key string, all []E) ([]E, []any, error) {
	scored := make([]Scored[E], len(all))
	for i, e := range all {
		n, err := f.scored(e)
		if err != nil {
			return nil, nil, err
		}
		scored[i] = Scored[E]{e, n}
	}
	scored, args, err := f.members.ranked(key, scored, f.most)
	if err != nil {
		return nil, nil, err
	}
	elems := make([]E, len(scored))
	for i, s := range scored {
		elems[i] = s.Member
	}
	return elems, args, nil
}
