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
	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/script"
)

// A RankingSpec describes rankings. It is a value: NewRanking copies it and
// changes nothing.
type RankingSpec[K comparable, M any] struct {
	// Name is the name of the collection in errors that have no key. Defaults to Key
	// up to its first placeholder.
	Name string

	// Key is the template of the keys in Redis, as that of cachex.Spec. Required,
	// unless KeyFunc is set.
	Key string

	// KeyFunc returns the key in Redis, as it stands, as that of cachex.Spec.
	// Defaults to nil.
	KeyFunc func(K) string

	// TTL is how long a ranking is kept after it was last written or restored, in
	// whole milliseconds, or cachex.Forever. Required.
	TTL time.Duration

	// Top is how many members Get returns, 1 to 10 000: those with the highest
	// scores. Required.
	Top int

	// Keep is how many members a ranking has at most, Top to 100 000. The lowest are
	// dropped, and a member that is dropped and comes again by Add begins from 0, so
	// there should be many more than Top. Defaults to ten times Top, and at least
	// 1000.
	Keep int

	// Codec turns members into the bytes that Redis keeps. It must make the same
	// bytes of members that are the same, so not one that encrypts. Defaults to
	// codec.For[M]().
	Codec codec.Codec[M]

	// Up restores a ranking from the system of record, in any order. What is below
	// the first Keep is not used. It is called as that of RecentSpec is. Defaults to
	// nil: a ranking that is absent is empty.
	Up func(ctx context.Context, key K) ([]Scored[M], error)

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
	// error, and large rankings go alone.
	NoCombining bool

	// AllowStaleReads accepts a client whose reads may be stale, like the field of cachex.Spec.
	// Defaults to false.
	AllowStaleReads bool
}

// A Scored is a member of a ranking and its score. Scores are exact as far as a
// float64 is: integers up to 2^53.
type Scored[M any] struct {
	Member M
	Score  float64
}

// maxKeep is how many members a sorted set may have. No script of ours looks at all of
// them but the one that ends a restoration.
const maxKeep = 100_000

// A Ranking keeps members of type M in the order of their scores, the highest
// first, by keys of type K. Of members with the same score, the one whose bytes,
// as the Codec makes them, are greater comes first. It is safe for concurrent use,
// and owns no goroutine while nothing is being loaded. Rankings with the same
// template on the same Redis are shared.
type Ranking[K comparable, M any] struct {
	home[K, []Scored[M]]
	top     int
	members members[M]
}

// NewRanking returns the rankings that spec describes, or an error that names the
// field that is wrong. It makes no call to Redis. The client stays the caller's.
func NewRanking[K comparable, M any](rdb redis.UniversalClient, spec RankingSpec[K, M]) (*Ranking[K, M], error) {
	if spec.Codec == nil {
		spec.Codec = codec.For[M]()
	}
	spec.UpTimeout = cmp.Or(spec.UpTimeout, defaultUpTimeout)
	spec.LeaseTTL = cmp.Or(spec.LeaseTTL, defaults.LeaseTTL())
	spec.Keep = cmp.Or(spec.Keep, min(max(10*spec.Top, 1000), maxKeep))
	r := &Ranking[K, M]{top: spec.Top, members: members[M]{codec.Bind(spec.Codec)}}
	r.up, r.most, r.scripts = spec.Up, spec.Keep, &script.Ranking
	err := r.settle(rdb, commonSpec[K]{spec.Name, spec.Key, spec.KeyFunc, spec.TTL, spec.UpTimeout, spec.LeaseTTL, spec.MaxLoads, spec.AllowStaleReads})
	if err == nil {
		err = checkCommon(rdb, spec.TTL, spec.UpTimeout, spec.LeaseTTL, spec.MaxLoads, spec.Codec)
	}
	if err == nil {
		err = checkCompared(spec.Codec)
	}
	switch {
	case err != nil:
	case spec.Top < 1 || spec.Top > maxLen:
		err = fmt.Errorf("Spec.Top is %d, must be from 1 to %d: how many members Get returns, which keeps the server from others", spec.Top, maxLen)
	case spec.Keep < spec.Top || spec.Keep > maxKeep:
		err = fmt.Errorf("Spec.Keep is %d, must be from Top, %d, to %d", spec.Keep, spec.Top, maxKeep)
	}
	if err != nil {
		return nil, fmt.Errorf("cachex: ranking: %w", err)
	}
	r.tidy = func(key string, all []Scored[M]) ([]Scored[M], []any, error) {
		return r.members.ranked(key, all, r.most)
	}
	r.ask = func(ctx context.Context, c redis.Cmdable, key string) redis.Cmder {
		return c.ZRevRangeWithScores(ctx, key, 0, int64(r.top)) // and the head
	}
	r.open = r.opened
	r.first = func(all []Scored[M]) []Scored[M] { return slices.Clone(all[:min(len(all), r.top)]) }
	r.listen()
	if !spec.NoCombining {
		r.combine(r.top + 1)
	}
	return r, nil
}

// Add adds by to the score of a member, which begins from 0, and returns its new
// score. With an Up it is to be called after the source was written: a ranking
// that is absent is then restored, and the score is that of the source, 0 if the
// member is not among the first Keep.
//
// The error is a *cachex.Error: of Redis, of the codec, of Up, or the cause of the
// end of ctx. With one that is ErrOutcomeUnknown the score may have been added to.
// After one of Up, or of Redis after that, the source has the last word, and the
// score is 0 only because it is not known.
//
// What is added while the ranking is being restored is added to what was loaded.
// If the load had read it from the source already it counts twice, until the
// ranking is next restored. Set does not count.
func (r *Ranking[K, M]) Add(ctx context.Context, key K, member M, by float64) (float64, error) {
	return r.score(ctx, "add", key, member, by)
}

// Set sets the score of a member. Of two at the same time one stays. With an Up
// it is to be called after the source was written; a ranking that is absent then
// stays so.
//
// The error is a *cachex.Error: of Redis, of the codec, or the cause of the end of
// ctx. After one of Redis the score may be set; it is safe to set it again.
func (r *Ranking[K, M]) Set(ctx context.Context, key K, member M, score float64) error {
	_, err := r.score(ctx, "set", key, member, score)
	return err
}

// score changes a score.
func (r *Ranking[K, M]) score(ctx context.Context, op string, key K, member M, by float64) (float64, error) {
	k, err := r.enter(ctx, op, key)
	if err != nil {
		return 0, err
	}
	if !fits(by) {
		return 0, r.fail(op, k, fmt.Errorf("a score must be from -%g to %g", maxScore, maxScore))
	}
	m, err := r.members.one(k, member)
	if err != nil {
		return 0, r.fail(op, k, err)
	}
	reply, err := r.write(ctx, script.Score, k, []any{r.up != nil, r.most, millis(r.ttl), op, by, m})
	if err != nil {
		return 0, r.fail(op, k, err)
	}
	s, here, err := scored(reply)
	switch {
	case errors.Is(err, errReply):
		return 0, r.fail(op, k, garbled(true))
	case err != nil:
		return 0, r.fail(op, k, err)
	case here:
		return s, nil
	case op == "set":
		return by, nil
	}
	// It is in the source, or will be added to what is loaded from there.
	st, err := r.stand(ctx, k, key, m, 0)
	if err != nil || len(st.members) == 0 {
		if err != nil {
			err = r.fail(op, k, err)
		}
		return 0, err
	}
	return st.members[0].Score, nil
}

// scored opens the reply to script.Score, and reports whether the score is in it.
func scored(reply any) (s float64, here bool, err error) {
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

// Rank returns the rank of a member, 1 for the highest score, and its score. A
// member that is not there is cachex.ErrNotFound. If the ranking is absent it is
// restored.
//
// The error is a *cachex.Error, as that of Get.
func (r *Ranking[K, M]) Rank(ctx context.Context, key K, member M) (rank int64, score float64, err error) {
	near, rank, err := r.around(ctx, "rank", key, member, 0)
	if err != nil {
		return 0, 0, err
	}
	return rank, near[0].Score, nil
}

// Around returns a member, with up to n members before it and up to n after it,
// and the rank of the first of these. At most 500 is n, or it is an error. A member that
// is not there is cachex.ErrNotFound. If the ranking is absent it is restored.
//
// The error is a *cachex.Error, as that of Get.
func (r *Ranking[K, M]) Around(ctx context.Context, key K, member M, n int) (near []Scored[M], first int64, err error) {
	return r.around(ctx, "around", key, member, n)
}

// Get returns the Top members of the ranking of key, the highest score first:
// from Redis, or from Up, which one caller of the whole fleet calls while the
// others wait, each as long as its ctx allows. Without an Up, a ranking that is
// absent is empty.
//
// The error is a *cachex.Error, as that of Recent.Get.
func (r *Ranking[K, M]) Get(ctx context.Context, key K) ([]Scored[M], error) { return r.get(ctx, key) }

// Remove takes members out of the ranking of key. What is not there is no error.
// A load that is under way may have read them: nothing of it is stored.
//
// The error is a *cachex.Error: of Redis, of the codec, or the cause of the end of
// ctx. It is safe to remove them again.
func (r *Ranking[K, M]) Remove(ctx context.Context, key K, members ...M) error {
	k, err := r.enter(ctx, "remove", key)
	if err != nil || len(members) == 0 {
		return err
	}
	args, err := r.members.encode(nil, k, members)
	if err == nil {
		err = r.takeOut(ctx, script.Unrank, k, []any{r.up != nil, millis(r.ttl)}, args, page)
	}
	r.flights.Forget(k)
	if err != nil {
		return r.fail("remove", k, err)
	}
	return nil
}

// Delete takes rankings away, and fences loads under way, as Recent.Delete does.
func (r *Ranking[K, M]) Delete(ctx context.Context, keys ...K) error { return r.remove(ctx, keys) }

// Close makes every further load loader.ErrClosed and waits for those under way,
// as Recent.Close does.
func (r *Ranking[K, M]) Close(ctx context.Context) error { return r.close(ctx) }

// around is Around under the name of op.
func (r *Ranking[K, M]) around(ctx context.Context, op string, key K, member M, n int) ([]Scored[M], int64, error) {
	k, err := r.enter(ctx, op, key)
	if err != nil {
		return nil, 0, err
	}
	m, err := r.members.one(k, member)
	if err == nil && n > maxAround {
		err = fmt.Errorf("n is %d, must be at most %d: how many members on each side, which keeps the server from others", n, maxAround)
	}
	var st standing[M]
	if err == nil {
		st, err = r.stand(ctx, k, key, m, max(n, 0))
	}
	if err == nil && len(st.members) == 0 {
		err = cachex.ErrNotFound
	}
	if err != nil {
		return nil, 0, r.fail(op, k, err)
	}
	return st.members, st.first, nil
}
