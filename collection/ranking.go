package collection

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/script"
)

// RankingSpec describes rankings. It is a value: NewRanking copies it and
// changes nothing.
type RankingSpec[K comparable, M any] struct {
	// Name names the collection in errors that have no key. Defaults to Key up
	// to its first placeholder.
	Name string

	// Key is the template of the Redis keys, like cachex.Spec.Key. Required,
	// unless KeyFunc is set.
	Key string

	// KeyFunc returns the Redis key, which is used unchanged, like
	// cachex.Spec.KeyFunc. Defaults to nil.
	KeyFunc func(K) string

	// TTL is the time that a ranking is kept after the last write or
	// restoration, in whole milliseconds, or cachex.Forever. Required.
	TTL time.Duration

	// Top is the number of members that Get returns, 1 to 10 000: those with
	// the highest scores. Required.
	Top int

	// Keep is the maximum number of members in a ranking, Top to 100 000. The
	// lowest are dropped. If Add adds a dropped member again, its score begins
	// from 0, so choose Keep much larger than Top. Defaults to ten times Top,
	// and at least 1000.
	Keep int

	// Codec encodes members to the bytes kept in Redis. It must encode equal
	// members to equal bytes, so it must not encrypt. Defaults to
	// codec.For[M]().
	Codec codec.Codec[M]

	// Up loads a ranking from the system of record, in any order. Members below
	// the first Keep are not used. It is called like RecentSpec.Up. Defaults to
	// nil: an absent ranking is empty.
	Up func(ctx context.Context, key K) ([]Scored[M], error)

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
	// cachex.Spec.NoCombining. Large rankings always have their own. Defaults
	// to false.
	NoCombining bool

	// AllowStaleReads accepts a client whose reads may be stale, like
	// cachex.Spec.AllowStaleReads. Defaults to false.
	AllowStaleReads bool
}

// Scored is a member of a ranking and its score. A score is as exact as a
// float64: integers up to 2^53.
type Scored[M any] struct {
	Member M
	Score  float64
}

// maxKeep is the maximum number of members in a sorted set. Only the script
// that ends a restoration visits all of them.
const maxKeep = 100_000

// Ranking keeps members of type M in the order of their scores, the highest
// first, by keys of type K. If scores are equal, the member with the greater
// encoded bytes comes first. A Ranking is safe for concurrent use, and runs no
// goroutine unless a load is in flight. Rankings with the same template on the
// same Redis are shared.
type Ranking[K comparable, M any] struct {
	store[K, []Scored[M]]
	top     int
	members elements[M]
}

// NewRanking returns the rankings that spec describes, or an error that names
// the wrong field. It does not call Redis. It does not close the client.
func NewRanking[K comparable, M any](rdb redis.UniversalClient, spec RankingSpec[K, M]) (*Ranking[K, M], error) {
	spec.Keep = cmp.Or(spec.Keep, min(max(10*spec.Top, 1000), maxKeep))
	r := &Ranking[K, M]{top: spec.Top}
	r.up, r.limit, r.scripts = spec.Up, spec.Keep, &script.Ranking
	var err error
	r.members, err = setUp(&r.store, rdb, commonSpec[K, M]{
		Name: spec.Name, Key: spec.Key, KeyFunc: spec.KeyFunc, TTL: spec.TTL, Codec: spec.Codec,
		UpTimeout: spec.UpTimeout, LeaseTTL: spec.LeaseTTL, MaxLoads: spec.MaxLoads,
		AllowStaleReads: spec.AllowStaleReads, Compared: true,
	})
	switch {
	case err != nil:
	case spec.Top < 1 || spec.Top > maxElements:
		err = fmt.Errorf("Spec.Top is %d, must be from 1 to %d: the number of members that Get returns; a longer reply blocks the server", spec.Top, maxElements)
	case spec.Keep < spec.Top || spec.Keep > maxKeep:
		err = fmt.Errorf("Spec.Keep is %d, must be from Top, %d, to %d", spec.Keep, spec.Top, maxKeep)
	}
	if err != nil {
		return nil, fmt.Errorf("cachex: ranking: %w", err)
	}
	r.normalize = func(key string, all []Scored[M]) ([]Scored[M], []any, error) {
		return r.members.sortTop(key, all, r.limit)
	}
	r.command = func(ctx context.Context, c redis.Cmdable, key string) redis.Cmder {
		return c.ZRevRangeWithScores(ctx, key, 0, int64(r.top)) // plus the head
	}
	r.parse = r.parseTop
	r.clone = func(all []Scored[M]) []Scored[M] { return slices.Clone(all[:min(len(all), r.top)]) }
	r.subscribe()
	if !spec.NoCombining {
		r.enableBatching(r.top + 1)
	}
	return r, nil
}

// Add adds by to the score of a member, which begins from 0, and returns the
// new score. With an Up, call it after the source was written: an absent
// ranking is then restored, and Add returns the score of the source, or 0 if
// the member is not among the first Keep.
//
// The error is a *cachex.Error: of Redis, of the codec, of Up, or the cause of
// the end of ctx. If it is ErrOutcomeUnknown, the score may have been added to.
// If Up failed, or Redis failed after Up, the source is authoritative; the
// score is unknown, and returned as 0.
//
// An Add during the restoration of the ranking is applied to the loaded scores.
// If the load had already read it from the source, it counts twice until the
// next restoration. Set does not have this problem.
func (r *Ranking[K, M]) Add(ctx context.Context, key K, member M, by float64) (float64, error) {
	return r.score(ctx, "add", key, member, by)
}

// Set sets the score of a member. Of concurrent calls, one remains. With an Up,
// call it after the source was written; an absent ranking stays absent.
//
// The error is a *cachex.Error: of Redis, of the codec, or the cause of the end
// of ctx. After an error of Redis the score may be set; it is safe to set it
// again.
func (r *Ranking[K, M]) Set(ctx context.Context, key K, member M, score float64) error {
	_, err := r.score(ctx, "set", key, member, score)
	return err
}

// score changes a score.
func (r *Ranking[K, M]) score(ctx context.Context, op string, key K, member M, by float64) (float64, error) {
	k, err := r.begin(ctx, op, key)
	if err != nil {
		return 0, err
	}
	if !validScore(by) {
		return 0, r.fail(op, k, fmt.Errorf("a score must be from -%g to %g", maxScore, maxScore))
	}
	m, err := r.members.encodeOne(k, member)
	if err != nil {
		return 0, r.fail(op, k, err)
	}
	reply, err := r.write(ctx, script.Score, k, []any{r.up != nil, r.limit, millis(r.ttl), op, by, m})
	if err != nil {
		return 0, r.fail(op, k, err)
	}
	s, here, err := parseScored(reply)
	switch {
	case errors.Is(err, errReply):
		return 0, r.fail(op, k, unknownReply(true))
	case err != nil:
		return 0, r.fail(op, k, err)
	case here:
		return s, nil
	case op == "set":
		return by, nil
	}
	// The score is in the source, or will be added to the loaded one.
	st, err := r.readAround(ctx, k, key, m, 0)
	if err != nil || len(st.members) == 0 {
		if err != nil {
			err = r.fail(op, k, err)
		}
		return 0, err
	}
	return st.members[0].Score, nil
}

// parseScored parses the reply to script.Score, and reports whether it has the
// score.
func parseScored(reply any) (s float64, here bool, err error) {
	parts, _ := reply.([]any)
	if len(parts) != 2 {
		return 0, false, errReply
	}
	switch parts[0] {
	case int64(1):
		s, err = parseScore(parts[1])
		return s, true, err
	case int64(0), int64(2):
		return 0, false, nil
	case int64(-1):
		return 0, false, ErrForeign
	}
	return 0, false, errReply
}

// Rank returns the rank of a member, 1 for the highest score, and its score. If
// the ranking does not have the member, the error is cachex.ErrNotFound. An
// absent ranking is restored.
//
// It fails like [Ranking.Get], with a *cachex.Error.
func (r *Ranking[K, M]) Rank(ctx context.Context, key K, member M) (rank int64, score float64, err error) {
	near, rank, err := r.around(ctx, "rank", key, member, 0)
	if err != nil {
		return 0, 0, err
	}
	return rank, near[0].Score, nil
}

// Around returns a member with up to n members before it and up to n after it,
// and the rank of the first of these. If n is above 500, it returns an error.
// If the ranking does not have the member, the error is cachex.ErrNotFound. An
// absent ranking is restored.
//
// It fails like [Ranking.Get], with a *cachex.Error.
func (r *Ranking[K, M]) Around(ctx context.Context, key K, member M, n int) (near []Scored[M], first int64, err error) {
	return r.around(ctx, "around", key, member, n)
}

// Get returns the Top members of the ranking of key, the highest score first.
// If the ranking is absent, one caller of the whole fleet calls Up, and the
// others wait, each until its own ctx ends. Without an Up, an absent ranking is
// empty.
//
// Get returns the errors of [Recent.Get].
func (r *Ranking[K, M]) Get(ctx context.Context, key K) ([]Scored[M], error) { return r.get(ctx, key) }

// Remove removes members from the ranking of key. Absent members are not an
// error. If a load is in flight that may have read them, its result is not
// stored.
//
// The error is a *cachex.Error: of Redis, of the codec, or the cause of the end
// of ctx. It is safe to remove them again.
func (r *Ranking[K, M]) Remove(ctx context.Context, key K, members ...M) error {
	k, err := r.begin(ctx, "remove", key)
	if err != nil || len(members) == 0 {
		return err
	}
	args, err := r.members.encode(nil, k, members)
	if err == nil {
		err = r.removeElements(ctx, script.Unrank, k, []any{r.up != nil, millis(r.ttl)}, args, maxArgs)
	}
	r.flights.Forget(k)
	if err != nil {
		return r.fail("remove", k, err)
	}
	return nil
}

// Delete deletes rankings and fences loads in flight, like [Recent.Delete].
func (r *Ranking[K, M]) Delete(ctx context.Context, keys ...K) error { return r.deleteKeys(ctx, keys) }

// Close makes further loads fail with loader.ErrClosed and waits for loads in
// flight, like [Recent.Close].
func (r *Ranking[K, M]) Close(ctx context.Context) error { return r.close(ctx) }

// around is Around; op is the operation in errors.
func (r *Ranking[K, M]) around(ctx context.Context, op string, key K, member M, n int) ([]Scored[M], int64, error) {
	k, err := r.begin(ctx, op, key)
	if err != nil {
		return nil, 0, err
	}
	m, err := r.members.encodeOne(k, member)
	if err == nil && n > maxAround {
		err = fmt.Errorf("n is %d, must be at most %d: the number of members on each side; a longer reply blocks the server", n, maxAround)
	}
	var st rankWindow[M]
	if err == nil {
		st, err = r.readAround(ctx, k, key, m, max(n, 0))
	}
	if err == nil && len(st.members) == 0 {
		err = cachex.ErrNotFound
	}
	if err != nil {
		return nil, 0, r.fail(op, k, err)
	}
	return st.members, st.first, nil
}
