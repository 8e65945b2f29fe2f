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
	"github.com/cachex-go/cachex/internal/script"
)

// TrendingSpec describes rankings of recent additions. It is a value:
// NewTrending copies it and changes nothing.
type TrendingSpec[K comparable, M any] struct {
	// Name names the collection in errors that have no key. Defaults to Key up
	// to its first placeholder.
	Name string

	// Key is the template of the Redis keys, like cachex.Spec.Key. If it has no
	// hash tag, the whole key becomes one. Required, unless KeyFunc is set.
	Key string

	// KeyFunc returns the Redis key, like cachex.Spec.KeyFunc. Defaults to nil.
	KeyFunc func(K) string

	// Bucket is the length of one bucket of time, at least a second, in whole
	// milliseconds. Buckets begin at multiples of it since 1970, UTC: with an
	// hour, on the hour. Required.
	Bucket time.Duration

	// Buckets is the number of buckets in a window, 1 to 1000, and at most a
	// hundred years in all. The window ends with the current bucket, so it is
	// at most Bucket × Buckets long, and shorter by the rest of the current
	// bucket. With 24 buckets of an hour, it covers the current hour so far,
	// and the 23 hours before it. Required.
	Buckets int

	// Top is the number of members that Get returns, 1 to 10 000: those with
	// the highest scores. Required.
	Top int

	// Keep is the maximum number of members in a bucket, Top to 100 000. The
	// lowest are dropped. If a dropped member is added again, its score begins
	// from 0, so choose Keep much larger than Top. Each Get reads all of them.
	// Defaults to ten times Top, and at least 1000.
	Keep int

	// Codec encodes members to the bytes kept in Redis. It must encode equal
	// members to equal bytes, so it must not encrypt. Defaults to
	// codec.For[M]().
	Codec codec.Codec[M]

	// AllowStaleReads accepts a client whose reads may be stale, like
	// cachex.Spec.AllowStaleReads. Defaults to false.
	AllowStaleReads bool
}

// Trending ranks members of type M by their additions within a moving window of
// time, by keys of type K. The window moves by whole buckets: when a bucket
// ends, the oldest one drops out at once, by its TTL. The clock of Redis
// decides, so all clients see the same window.
//
// Trending has no source: if Redis loses additions, they are lost, and the
// window fills again. It is safe for concurrent use and runs no goroutine.
// Trendings with the same template and the same Bucket on the same Redis are
// shared.
type Trending[K comparable, M any] struct {
	store[K, []Scored[M]]
	members elements[M]
	bucket  time.Duration
	buckets int
	top     int
	keep    int
}

// maxWindow follows from the 14 digits with which scripts write times.
// maxBuckets limits a read of a window, which reads all of its buckets.
const (
	maxWindow  = 100 * 365 * 24 * time.Hour
	maxBuckets = 1000
)

// NewTrending returns the rankings that spec describes, or an error that names
// the wrong field. It does not call Redis. It does not close the client.
func NewTrending[K comparable, M any](rdb redis.UniversalClient, spec TrendingSpec[K, M]) (*Trending[K, M], error) {
	spec.Keep = cmp.Or(spec.Keep, min(max(10*spec.Top, 1000), maxKeep))
	t := &Trending[K, M]{bucket: spec.Bucket, buckets: spec.Buckets, top: spec.Top, keep: spec.Keep}
	t.sameSlot = true
	var err error
	switch {
	case spec.Bucket < time.Second || spec.Bucket%time.Millisecond != 0:
		err = fmt.Errorf("Spec.Bucket is %v, must be a second or more, in whole milliseconds", spec.Bucket)
	case spec.Buckets < 1 || spec.Buckets > maxBuckets:
		err = fmt.Errorf("Spec.Buckets is %d, must be from 1 to %d: the number of buckets in a window", spec.Buckets, maxBuckets)
	case spec.Bucket > maxWindow/time.Duration(spec.Buckets):
		err = fmt.Errorf("%d Spec.Buckets of %v are more than a hundred years", spec.Buckets, spec.Bucket)
	case spec.Top < 1 || spec.Top > maxElements:
		err = fmt.Errorf("Spec.Top is %d, must be from 1 to %d: the number of members that Get returns; a longer reply blocks the server", spec.Top, maxElements)
	case spec.Keep < spec.Top || spec.Keep > maxKeep:
		err = fmt.Errorf("Spec.Keep is %d, must be from Top, %d, to %d", spec.Keep, spec.Top, maxKeep)
	default:
		t.members, err = setUp(&t.store, rdb, commonSpec[K, M]{
			Name: spec.Name, Key: spec.Key, KeyFunc: spec.KeyFunc, TTL: spec.Bucket, Codec: spec.Codec,
			AllowStaleReads: spec.AllowStaleReads, Compared: true,
		})
	}
	if err != nil {
		return nil, fmt.Errorf("cachex: trending: %w", err)
	}
	t.command = func(ctx context.Context, p redis.Cmdable, k string) redis.Cmder {
		return script.Trends.Queue(ctx, p, k, t.scriptArgs(t.top)...)
	}
	t.parse = func(k string, cmd redis.Cmder) ([]Scored[M], readState, error) {
		reply, err := script.Trends.Reply(cmd)
		return t.parseTrends(k, reply, err)
	}
	t.read = t.readParts
	return t, nil
}

// Add adds by to the score of a member in the current bucket, and returns the
// member's sum over the window. If its bucket drops the member, the addition is
// not in the sum.
//
// The error is a *cachex.Error: of Redis, of the codec, or the cause of the end
// of ctx. If it is ErrOutcomeUnknown, the score may have been added to; after
// any other error it was not.
func (t *Trending[K, M]) Add(ctx context.Context, key K, member M, by float64) (float64, error) {
	k, err := t.begin(ctx, "add", key)
	if err != nil {
		return 0, err
	}
	if !validScore(by) {
		return 0, t.fail("add", k, fmt.Errorf("a score must be from -%g to %g", maxScore, maxScore))
	}
	m, err := t.members.encodeOne(k, member)
	if err != nil {
		return 0, t.fail("add", k, err)
	}
	reply, err := t.write(ctx, script.Trend, k, t.scriptArgs(t.keep, by, m))
	if err != nil {
		return 0, t.fail("add", k, err)
	}
	scores, err := bucketReply(reply)
	sum := 0.0
	for _, s := range scores {
		score, bad := parseScore(s)
		sum, err = sum+score, cmp.Or(err, bad)
	}
	if errors.Is(err, errReply) {
		err = unknownReply(true)
	}
	if err != nil {
		return 0, t.fail("add", k, err)
	}
	return sum, nil
}

// Get returns the Top members of the window of key, the highest sum first. If
// sums are equal, the member with the greater bytes comes first. A window
// without additions is empty.
//
// If all buckets together have at most 2,000 members, Redis merges them, in one
// round trip. Otherwise each bucket is read in parts of 2,000, and this process
// merges them: a million members take a hundred round trips. A concurrent
// addition is in the sums or not. For many readers, put a cachex.Cache with a
// TTL of some seconds in front of it: Get has the shape of its Up.
//
// The error is a *cachex.Error: of Redis, of the codec, or the cause of the end
// of ctx.
func (t *Trending[K, M]) Get(ctx context.Context, key K) ([]Scored[M], error) { return t.get(ctx, key) }

// Remove removes members from the window of key. One step removes up to 1,000
// members in all buckets together. Absent members are not an error, and later
// additions count again.
//
// It fails like [Trending.Get], with a *cachex.Error. It is safe to
// remove them again.
func (t *Trending[K, M]) Remove(ctx context.Context, key K, members ...M) error {
	k, err := t.begin(ctx, "remove", key)
	if err != nil || len(members) == 0 {
		return err
	}
	args, err := t.members.encode(nil, k, members)
	if err == nil {
		err = t.removeElements(ctx, script.Untrend, k, t.scriptArgs(), args, max(maxArgs/t.buckets, 1))
	}
	if err != nil {
		return t.fail("remove", k, err)
	}
	return nil
}

// Delete deletes whole windows. A key without a window is not an error.
//
// The error is a *cachex.Error with the first key that failed. It is safe to
// Delete all again.
func (t *Trending[K, M]) Delete(ctx context.Context, keys ...K) error {
	calls := make([]*script.Call, len(keys))
	for i, key := range keys {
		k, err := t.begin(ctx, "delete", key)
		if err != nil {
			return err
		}
		calls[i] = &script.Call{Script: script.Untrend, Key: k, Args: t.scriptArgs()}
	}
	for chunk := range slices.Chunk(calls, max(maxArgs/t.buckets, 1)) { // each of them takes as many UNLINKs as there are buckets
		began := time.Now()
		convoy.Run(ctx, t.rdb, chunk)
		for _, call := range chunk {
			if _, err := t.intReply(ctx, call, began); err != nil {
				return t.fail("delete", call.Key, err)
			}
		}
	}
	return nil
}

func (t *Trending[K, M]) scriptArgs(more ...any) []any {
	return append([]any{t.bucket.Milliseconds(), t.buckets}, more...)
}

// parseTrends parses the reply to script.Trends.
func (t *Trending[K, M]) parseTrends(k string, reply any, err error) ([]Scored[M], readState, error) {
	if err != nil {
		return nil, readState{}, err
	}
	if parts, _ := reply.([]any); len(parts) == 2 && parts[0] == int64(2) {
		return nil, readState{}, errNeedsParts
	}
	all, err := bucketReply(reply)
	if errors.Is(err, ErrForeign) {
		return nil, readState{foreign: true}, nil
	}
	if err != nil {
		return nil, readState{}, err
	}
	members, s, err := t.members.decodeScored(k, all, "")
	top := make([]Scored[M], 0, len(members))
	for _, m := range slices.Backward(members) {
		top = append(top, Scored[M]{m.member, m.score})
	}
	return top, s, err
}

// bucketReply returns the list in the reply to a script that reads buckets.
func bucketReply(reply any) ([]any, error) {
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
