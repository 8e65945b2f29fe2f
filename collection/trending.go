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
	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/script"
)

// A TrendingSpec describes rankings of what was added lately. It is a value:
// NewTrending copies it and changes nothing.
type TrendingSpec[K comparable, M any] struct {
	// Name is the name of the collection in errors that have no key. Defaults to Key
	// up to its first placeholder.
	Name string

	// Key is the template of the keys in Redis, as that of cachex.Spec. It is made a
	// hash tag, unless it has one. Required, unless KeyFunc is set.
	Key string

	// KeyFunc returns the key in Redis, as that of cachex.Spec. Defaults to nil.
	KeyFunc func(K) string

	// Bucket is how long a span of time is that is counted as one, a second or
	// more, in whole milliseconds. Spans begin at its multiples since 1970, UTC: with an
	// hour, on the hour. Required.
	Bucket time.Duration

	// Buckets is how many of them a window has, 1 to 1000, and no more than make a
	// hundred years: that of now, and those before it. So the window is never longer than Bucket × Buckets, and shorter by
	// what is left of the bucket of now: with 24 of an hour, it is that hour as far as
	// it has come, and the 23 before it. Required.
	Buckets int

	// Top is how many members Get returns, 1 to 10 000: those with the highest
	// scores. Required.
	Top int

	// Keep is how many members a bucket has at most, Top to 100 000. The lowest are
	// dropped, and begin from 0 if they come again, so there should be many more than
	// Top. Each Get reads all of them. Defaults to ten times Top, and at
	// least 1000.
	Keep int

	// Codec turns members into the bytes that Redis keeps. It must make the same
	// bytes of members that are the same, so not one that encrypts. Defaults to
	// codec.For[M]().
	Codec codec.Codec[M]

	// AllowStaleReads accepts a client whose reads may be stale, like the field of cachex.Spec.
	// Defaults to false.
	AllowStaleReads bool
}

// A Trending ranks members of type M by what was added to them within a window of
// time that moves on, by keys of type K. The window moves by whole buckets: at the
// end of one, what the oldest had is gone at once, by its TTL. It is the clock of
// Redis that says what time it is, so all clients see the same window.
//
// It has no source: what Redis loses is lost, and the window fills anew. It is safe
// for concurrent use and owns no goroutine. Those with the same template and the
// same Bucket on the same Redis are shared.
type Trending[K comparable, M any] struct {
	home[K, []Scored[M]]
	members members[M]
	bucket  time.Duration
	buckets int
	top     int
	keep    int
}

// Scripts write moments with 14 digits, and every read of a window reads all of its
// buckets.
const (
	maxWindow  = 100 * 365 * 24 * time.Hour
	maxBuckets = 1000
)

// NewTrending returns the rankings that spec describes, or an error that names the
// field that is wrong. It makes no call to Redis. The client stays the caller's.
func NewTrending[K comparable, M any](rdb redis.UniversalClient, spec TrendingSpec[K, M]) (*Trending[K, M], error) {
	if spec.Codec == nil {
		spec.Codec = codec.For[M]()
	}
	spec.Keep = cmp.Or(spec.Keep, min(max(10*spec.Top, 1000), maxKeep))
	t := &Trending[K, M]{
		members: members[M]{codec.Bind(spec.Codec)},
		bucket:  spec.Bucket, buckets: spec.Buckets, top: spec.Top, keep: spec.Keep,
	}
	t.beside = true
	err := t.settle(rdb, commonSpec[K]{spec.Name, spec.Key, spec.KeyFunc, spec.Bucket, defaultUpTimeout, defaults.LeaseTTL(), 0, spec.AllowStaleReads})
	switch {
	case err != nil:
	case spec.Bucket < time.Second || spec.Bucket%time.Millisecond != 0:
		err = fmt.Errorf("Spec.Bucket is %v, must be a second or more, in whole milliseconds", spec.Bucket)
	case spec.Buckets < 1 || spec.Buckets > maxBuckets:
		err = fmt.Errorf("Spec.Buckets is %d, must be from 1 to %d: how many make a window", spec.Buckets, maxBuckets)
	case spec.Bucket > maxWindow/time.Duration(spec.Buckets):
		err = fmt.Errorf("%d Spec.Buckets of %v are more than a hundred years", spec.Buckets, spec.Bucket)
	case spec.Top < 1 || spec.Top > maxLen:
		err = fmt.Errorf("Spec.Top is %d, must be from 1 to %d: how many members Get returns, which keeps the server from others", spec.Top, maxLen)
	case spec.Keep < spec.Top || spec.Keep > maxKeep:
		err = fmt.Errorf("Spec.Keep is %d, must be from Top, %d, to %d", spec.Keep, spec.Top, maxKeep)
	default:
		err = checkCommon(rdb, spec.Bucket, defaultUpTimeout, defaults.LeaseTTL(), 0, spec.Codec)
	}
	if err == nil {
		err = checkCompared(spec.Codec)
	}
	if err != nil {
		return nil, fmt.Errorf("cachex: trending: %w", err)
	}
	t.ask = func(ctx context.Context, p redis.Cmdable, k string) redis.Cmder {
		return script.Trends.Queue(ctx, p, k, t.args(t.top)...)
	}
	t.open = func(k string, cmd redis.Cmder) ([]Scored[M], sight, error) {
		reply, err := script.Trends.Reply(cmd)
		return t.trends(k, reply, err)
	}
	t.read = t.parts
	return t, nil
}

// Add adds by to the score of a member, now, and returns the sum of the window. What
// is added to a member that its bucket drops is not in the sum.
//
// The error is a *cachex.Error: of Redis, of the codec, or the cause of the end of
// ctx. With one that is ErrOutcomeUnknown the score may have been added to, after any
// other it was not.
func (t *Trending[K, M]) Add(ctx context.Context, key K, member M, by float64) (float64, error) {
	k, err := t.enter(ctx, "add", key)
	if err != nil {
		return 0, err
	}
	if !fits(by) {
		return 0, t.fail("add", k, fmt.Errorf("a score must be from -%g to %g", maxScore, maxScore))
	}
	m, err := t.members.one(k, member)
	if err != nil {
		return 0, t.fail("add", k, err)
	}
	reply, err := t.write(ctx, script.Trend, k, t.args(t.keep, by, m))
	if err != nil {
		return 0, t.fail("add", k, err)
	}
	scores, err := bucketed(reply)
	sum := 0.0
	for _, s := range scores {
		score, bad := parseScore(s)
		sum, err = sum+score, cmp.Or(err, bad)
	}
	if errors.Is(err, errReply) {
		err = garbled(true)
	}
	if err != nil {
		return 0, t.fail("add", k, err)
	}
	return sum, nil
}

// Get returns the Top members of the window of key, the highest sum first. Of those with
// the same sum, the one whose bytes are greater comes first. A window to which nothing was
// added is empty.
//
// If all buckets have at most 2,000 members together, Redis merges them, in one round trip.
// Else each bucket is read in parts of 2,000, and they are merged here: a million members
// take a hundred round trips. What is added meanwhile is in the sums or not. So where many
// ask let a cachex.Cache of some seconds ask for them: Get has the shape of its Up.
//
// The error is a *cachex.Error: of Redis, of the codec, or the cause of the end of
// ctx.
func (t *Trending[K, M]) Get(ctx context.Context, key K) ([]Scored[M], error) { return t.get(ctx, key) }

// Remove takes members out of the window of key, so many in one step that it is 1,000 in
// all buckets together. What is not there is no error, and what is added later counts
// again.
//
// The error is a *cachex.Error, as that of Get. It is safe to remove them again.
func (t *Trending[K, M]) Remove(ctx context.Context, key K, members ...M) error {
	k, err := t.enter(ctx, "remove", key)
	if err != nil || len(members) == 0 {
		return err
	}
	args, err := t.members.encode(nil, k, members)
	if err == nil {
		err = t.takeOut(ctx, script.Untrend, k, t.args(), args, max(page/t.buckets, 1))
	}
	if err != nil {
		return t.fail("remove", k, err)
	}
	return nil
}

// Delete takes whole windows away. A key that has none is no error.
//
// The error is a *cachex.Error with the first key that failed. It is safe to Delete
// all again.
func (t *Trending[K, M]) Delete(ctx context.Context, keys ...K) error {
	calls := make([]*script.Call, len(keys))
	for i, key := range keys {
		k, err := t.enter(ctx, "delete", key)
		if err != nil {
			return err
		}
		calls[i] = &script.Call{Script: script.Untrend, Key: k, Args: t.args()}
	}
	for some := range slices.Chunk(calls, max(page/t.buckets, 1)) { // which take so many UNLINKs
		began := time.Now()
		convoy.Run(ctx, t.rdb, some)
		for _, call := range some {
			if _, err := t.ran(ctx, call, began); err != nil {
				return t.fail("delete", call.Key, err)
			}
		}
	}
	return nil
}

func (t *Trending[K, M]) args(more ...any) []any {
	return append([]any{t.bucket.Milliseconds(), t.buckets}, more...)
}

// trends opens the reply to script.Trends.
func (t *Trending[K, M]) trends(k string, reply any, err error) ([]Scored[M], sight, error) {
	if err != nil {
		return nil, sight{}, err
	}
	if parts, _ := reply.([]any); len(parts) == 2 && parts[0] == int64(2) {
		return nil, sight{}, errParts
	}
	all, err := bucketed(reply)
	if errors.Is(err, ErrForeign) {
		return nil, sight{foreign: true}, nil
	}
	if err != nil {
		return nil, sight{}, err
	}
	members, s, err := t.members.placed(k, all, "")
	top := make([]Scored[M], 0, len(members))
	for _, m := range slices.Backward(members) {
		top = append(top, Scored[M]{m.member, m.score})
	}
	return top, s, err
}

// bucketed returns the list in a reply to a script of buckets.
func bucketed(reply any) ([]any, error) {
	parts, _ := reply.([]any)
	if len(parts) != 2 {
		return nil, errReply
	}
	if parts[0] == int64(-1) {
		return nil, ErrForeign
	}
	all, ok := parts[1].([]any)
	if parts[0] != int64(1) || !ok {
		return nil, errReply
	}
	return all, nil
}
