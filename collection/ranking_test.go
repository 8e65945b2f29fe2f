package collection

import (
	"context"
	"errors"
	"io"
	"math"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// ranking returns a Ranking that is closed when the test ends. Key defaults to
// a key of this test alone, TTL to someTTL, Top to 3.
func ranking[M any](t testing.TB, rdb redis.UniversalClient, spec RankingSpec[int, M]) *Ranking[int, M] {
	t.Helper()
	if spec.Key == "" {
		spec.Key = redistest.Key(t) + ":{id}"
	}
	if spec.TTL == 0 {
		spec.TTL = someTTL
	}
	if spec.LeaseTTL == 0 {
		spec.LeaseTTL = someLease
	}
	if spec.Top == 0 {
		spec.Top = 3
	}
	r, err := NewRanking(rdb, spec)
	require.NoError(t, err)
	closing(t, r)
	return r
}

// board is a ranking of strings.
type board = []Scored[string]

// tops fails unless Get returns want.
func tops(t testing.TB, r *Ranking[int, string], id int, want board, msg ...any) {
	t.Helper()
	got, err := r.Get(t.Context(), id)
	require.NoError(t, err, msg...)
	require.Equal(t, append(board{}, want...), append(board{}, got...), msg...)
}

// adds fails unless Add returns want.
func adds(t testing.TB, r *Ranking[int, string], id int, member string, by, want float64) {
	t.Helper()
	got, err := r.Add(t.Context(), id, member, by)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// always is an Up that always returns the same board.
func always(b board) func(context.Context, int) (board, error) {
	return func(context.Context, int) (board, error) { return append(board{}, b...), nil }
}

func TestRanking_ReturnsTheHighestScoresFirst(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, r := t.Context(), ranking(t, rdb, RankingSpec[int, string]{})
		tops(t, r, 1, nil)
		adds(t, r, 1, "a", 1, 1)
		adds(t, r, 1, "b", 5, 5)
		adds(t, r, 1, "a", 2.5, 3.5)
		adds(t, r, 1, "c", -1, -1)
		require.NoError(t, r.Set(ctx, 1, "d", 4))
		tops(t, r, 1, board{{"b", 5}, {"d", 4}, {"a", 3.5}})
		require.NoError(t, r.Set(ctx, 1, "b", -7))
		tops(t, r, 1, board{{"d", 4}, {"a", 3.5}, {"c", -1}})

		rank, score, err := r.Rank(ctx, 1, "b")
		require.NoError(t, err)
		require.Equal(t, []any{int64(4), -7.0}, []any{rank, score})
		near, first, err := r.Around(ctx, 1, "a", 1)
		require.NoError(t, err)
		require.Equal(t, board{{"d", 4}, {"a", 3.5}, {"c", -1}}, near)
		require.EqualValues(t, 1, first)
		near, first, err = r.Around(ctx, 1, "b", 2)
		require.NoError(t, err)
		require.Equal(t, board{{"a", 3.5}, {"c", -1}, {"b", -7}}, near)
		require.EqualValues(t, 2, first)
		for _, id := range []int{1, 2} { // of another ranking, and of an absent one
			_, _, err = r.Rank(ctx, id, "x")
			require.ErrorIs(t, err, cachex.ErrNotFound)
			require.ErrorContains(t, err, "cachex: rank "+name(t, &r.store, id)+": not found")
		}

		require.NoError(t, r.Remove(ctx, 1, "d", "x"))
		tops(t, r, 1, board{{"a", 3.5}, {"c", -1}, {"b", -7}})
		require.NoError(t, r.Remove(ctx, 1, "a", "b", "c"))
		tops(t, r, 1, nil)
		require.NoError(t, r.Delete(ctx, 1))
		require.Zero(t, rdb.Exists(ctx, name(t, &r.store, 1)).Val())
	})
}

func TestRanking_OrdersEqualScoresByBytes(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ties := board{{"b", 1}, {"\xc1", 1}, {"", 1}, {"a", 1}, {"\xff", 1}, {"ab", 1}}
		want := board{{"\xff", 1}, {"\xc1", 1}, {"b", 1}, {"ab", 1}, {"a", 1}, {"", 1}}
		r := ranking(t, rdb, RankingSpec[int, string]{Top: 6})
		up := ranking(t, rdb, RankingSpec[int, string]{Top: 6, Up: always(ties)})
		for _, s := range ties {
			require.NoError(t, r.Set(t.Context(), 1, s.Member, s.Score))
		}
		tops(t, r, 1, want)
		tops(t, up, 1, want)
		away := ranking(t, closedClient(t), RankingSpec[int, string]{Top: 6, Up: always(ties)})
		tops(t, away, 1, want, "without Redis")
		near, first, err := away.Around(t.Context(), 1, "b", 1)
		require.NoError(t, err)
		require.Equal(t, want[1:4], near)
		require.EqualValues(t, 2, first)
	})
}

func TestRanking_ScoresAreExact(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		const big = 1 << 53
		r := ranking(t, rdb, RankingSpec[int, string]{Top: 10})
		up := ranking(t, rdb, RankingSpec[int, string]{Top: 10, Up: always(board{{"a", big}, {"b", big - 1}, {"c", 0.1}, {"d", -big}})})
		adds(t, r, 1, "a", big-3, big-3)
		for i := range 3 {
			adds(t, r, 1, "a", 1, big-2+float64(i))
		}
		require.NoError(t, r.Set(t.Context(), 1, "b", big-1))
		require.NoError(t, r.Set(t.Context(), 1, "c", 0.1))
		require.NoError(t, r.Set(t.Context(), 1, "d", -big))
		for range 2 {
			tops(t, r, 1, board{{"a", big}, {"b", big - 1}, {"c", 0.1}, {"d", -big}})
			tops(t, up, 1, board{{"a", big}, {"b", big - 1}, {"c", 0.1}, {"d", -big}})
		}
		for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 2e300} {
			require.ErrorContains(t, r.Set(t.Context(), 1, "a", bad), ": a score must be from -1e+300 to 1e+300")
			_, err := r.Add(t.Context(), 1, "a", bad)
			require.ErrorContains(t, err, ": a score must be from -1e+300 to 1e+300")
			broken := ranking(t, rdb, RankingSpec[int, string]{Up: always(board{{"a", bad}})})
			_, err = broken.Get(t.Context(), 1)
			require.ErrorContains(t, err, "Spec.Up: a score is not from")
		}
	})
}

func TestRanking_DropsTheLowestBeyondKeep(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		r := ranking(t, rdb, RankingSpec[int, string]{Top: 2, Keep: 3})
		for i, m := range []string{"a", "b", "c", "d", "e"} {
			require.NoError(t, r.Set(t.Context(), 1, m, float64(i)))
		}
		tops(t, r, 1, board{{"e", 4}, {"d", 3}})
		require.EqualValues(t, 4, rdb.ZCard(t.Context(), name(t, &r.store, 1)).Val(), "three and the head")
		_, _, err := r.Rank(t.Context(), 1, "b")
		require.ErrorIs(t, err, cachex.ErrNotFound)
		adds(t, r, 1, "a", 1, 1) // and dropped at once
		up := ranking(t, rdb, RankingSpec[int, string]{Top: 2, Keep: 3, Up: always(board{{"a", 1}, {"b", 2}, {"c", 3}, {"d", 4}, {"d", 5}})})
		tops(t, up, 1, board{{"d", 5}, {"c", 3}})
		require.EqualValues(t, 4, rdb.ZCard(t.Context(), name(t, &up.store, 1)).Val())
	})
}

func TestRanking_WritesSetTheTTL(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		r := ranking(t, rdb, RankingSpec[int, string]{Key: "r:{id}", TTL: time.Minute})
		up := ranking(t, rdb, RankingSpec[int, string]{Key: "up:{id}", TTL: time.Minute, Up: always(board{{"a", 1}})})
		forever := ranking(t, rdb, RankingSpec[int, string]{Key: "f:{id}", TTL: cachex.Forever})
		tops(t, up, 1, board{{"a", 1}})
		for _, c := range []*Ranking[int, string]{r, up, forever} {
			k, want := name(t, &c.store, 1), time.Minute
			if c == forever {
				want = -1
			}
			for _, write := range []func() error{
				func() error { return c.Set(t.Context(), 1, "b", 1) },
				func() error { _, err := c.Add(t.Context(), 1, "b", 1); return err },
				func() error { return c.Remove(t.Context(), 1, "b") },
			} {
				time.Sleep(20 * time.Second)
				require.NoError(t, write())
				require.Equal(t, want, rdb.PTTL(t.Context(), k).Val(), k)
				if c == r {
					require.NoError(t, up.Set(t.Context(), 1, "x", 0)) // so that it remains
				}
			}
		}
	})
}

func TestRanking_ForeignKeyIsAnErrorWithoutASourceAndAMissWithOne(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		r := ranking(t, rdb, RankingSpec[int, string]{})
		up := ranking(t, rdb, RankingSpec[int, string]{Up: always(board{{"a", 1}})})
		for what, put := range foreign(rdb) {
			k := name(t, &r.store, 1)
			require.NoError(t, rdb.Del(ctx, k).Err())
			require.NoError(t, put(ctx, k))
			before := dump(t, rdb, k)
			_, err := r.Get(ctx, 1)
			require.ErrorIs(t, err, ErrForeign, what)
			_, err = r.Add(ctx, 1, "b", 1)
			require.ErrorIs(t, err, ErrForeign, what)
			_, _, err = r.Rank(ctx, 1, "b")
			require.ErrorIs(t, err, ErrForeign, what)
			require.ErrorIs(t, r.Set(ctx, 1, "b", 1), ErrForeign, what)
			require.ErrorIs(t, r.Remove(ctx, 1, "b"), ErrForeign, what)
			require.Equal(t, before, dump(t, rdb, k), what)

			k = name(t, &up.store, 1)
			require.NoError(t, up.Delete(ctx, 1))
			require.NoError(t, put(ctx, k))
			before = dump(t, rdb, k)
			require.NoError(t, up.Set(ctx, 1, "b", 1))
			require.NoError(t, up.Remove(ctx, 1, "b"))
			require.Equal(t, before, dump(t, rdb, k), what)
			rank, _, err := up.Rank(ctx, 1, "a")
			require.NoError(t, err, what)
			require.EqualValues(t, 1, rank, what)
			tops(t, up, 1, board{{"a", 1}}, what)
		}
	})
}

func TestRanking_UndecodableMemberIsAnErrorWithoutASourceAndAMissWithOne(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, prefix := t.Context(), redistest.Key(t)+":{id}"
		words := ranking(t, rdb, RankingSpec[int, string]{Key: prefix})
		numbers := ranking(t, rdb, RankingSpec[int, int]{Key: prefix})
		require.NoError(t, words.Set(ctx, 1, "secret", 2))
		require.NoError(t, numbers.Set(ctx, 1, 5, 1))
		_, err := numbers.Get(ctx, 1)
		require.ErrorIs(t, err, codec.ErrFormat)
		require.NotContains(t, err.Error(), "secret")
		_, _, err = numbers.Around(ctx, 1, 5, 1)
		require.ErrorIs(t, err, codec.ErrFormat)

		older := ranking(t, rdb, RankingSpec[int, string]{Key: prefix, Up: always(board{{"x", 2}, {"7", 1}})})
		newer := ranking(t, rdb, RankingSpec[int, int]{Key: prefix, Up: func(context.Context, int) ([]Scored[int], error) { return []Scored[int]{{7, 3}}, nil }})
		require.NoError(t, older.Delete(ctx, 1))
		tops(t, older, 1, board{{"x", 2}, {"7", 1}})
		near, _, err := newer.Around(ctx, 1, 7, 1)
		require.NoError(t, err)
		require.Equal(t, []Scored[int]{{7, 3}}, near)
		has(t, &newer.store, 1, []Scored[int]{{7, 3}})
	})
}

func TestRanking_AddWithALostReplyIsAnUnknownOutcomeAndSentOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		_, err := script.Score.Run(t.Context(), rdb, redistest.Key(t), "", 9, 1000, "set", 1, "a") // so that the server knows the script
		require.NoError(t, err)
		proxy := redistest.NewProxy(t, rdb.Options().Addr)
		client := redis.NewClient(&redis.Options{Addr: proxy.Addr(), PoolSize: 1, ReadTimeout: redistest.Patience})
		t.Cleanup(func() { _ = client.Close() })
		r := ranking(t, client, RankingSpec[int, string]{})
		require.NoError(t, client.Ping(t.Context()).Err()) // to connect
		proxy.LoseReplies(1)
		_, err = r.Add(t.Context(), 1, "a", 1)
		require.ErrorIs(t, err, ErrOutcomeUnknown)
		tops(t, r, 1, board{{"a", 1}})
		proxy.LoseReplies(1)
		require.ErrorIs(t, r.Set(t.Context(), 1, "a", 5), ErrOutcomeUnknown)
		tops(t, r, 1, board{{"a", 5}})
	})
}

func TestRanking_AddFailsIfTheRestorationFails(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		r := ranking(t, rdb, RankingSpec[int, string]{Up: func(context.Context, int) (board, error) { return nil, io.ErrNoProgress }})
		_, err := r.Add(t.Context(), 1, "a", 1)
		require.ErrorIs(t, err, io.ErrNoProgress)
		e, ok := errors.AsType[*cachex.Error](err)
		require.True(t, ok)
		require.Equal(t, "add", e.Op)
		require.NotErrorIs(t, err, ErrOutcomeUnknown)
	})
}

func TestNewRanking_NamesTheWrongField(t *testing.T) {
	t.Parallel()
	for want, spoil := range map[string]func(s *RankingSpec[int, int]){
		"Spec.Key is required":                                             func(s *RankingSpec[int, int]) { s.Key = "" },
		"Spec.TTL is required: choose one, or cachex.Forever":              func(s *RankingSpec[int, int]) { s.TTL = 0 },
		"Spec.Top is 0, must be from 1 to 10000: the number of members th": func(s *RankingSpec[int, int]) { s.Top = 0 },
		"Spec.Top is 10001, must be from 1 to 10000":                       func(s *RankingSpec[int, int]) { s.Top = 10_001 },
		"Spec.Keep is 2, must be from Top, 3, to 100000":                   func(s *RankingSpec[int, int]) { s.Keep = 2 },
		"Spec.Keep is 100001, must be from Top, 3, to 100000":              func(s *RankingSpec[int, int]) { s.Keep = 100_001 },
		"Spec.LeaseTTL is 1ms, must be at least 100ms":                     func(s *RankingSpec[int, int]) { s.LeaseTTL = time.Millisecond },
	} {
		spec := RankingSpec[int, int]{Key: "a:{id}", TTL: time.Minute, Top: 3}
		spoil(&spec)
		_, err := NewRanking(closedClient(t), spec)
		require.ErrorContains(t, err, "cachex: ranking: "+want)
	}
}

func rankingAnywhere(t *testing.T, rdb redis.UniversalClient) {
	r := ranking(t, rdb, RankingSpec[int, string]{Up: always(board{{"a", 5}, {"b", 4}})})
	for id := range 30 { // on all nodes
		tops(t, r, id, board{{"a", 5}, {"b", 4}})
		adds(t, r, id, "b", 2, 6)
		require.NoError(t, r.Set(t.Context(), id, "c", 5.5))
		tops(t, r, id, board{{"b", 6}, {"c", 5.5}, {"a", 5}})
		require.NoError(t, r.Remove(t.Context(), id, "b"))
		rank, _, err := r.Rank(t.Context(), id, "a")
		require.NoError(t, err)
		require.EqualValues(t, 2, rank)
	}
}
