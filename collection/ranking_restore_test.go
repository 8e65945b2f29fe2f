package collection

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

func TestRanking_AppliesWritesToTheLoadedScores(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, s := t.Context(), newSource[board]()
		r := ranking(t, rdb, RankingSpec[int, string]{Up: s.up, Top: 9})
		require.NoError(t, r.Set(ctx, 1, "a", 99), "which the source has")
		require.Zero(t, rdb.Exists(ctx, name(t, &r.store, 1)).Val())
		ch := asking(ctx, &r.store, 1)
		load := receive(t, s.began)
		require.NoError(t, r.Set(ctx, 1, "set", 7))
		require.NoError(t, r.Set(ctx, 1, "\xc1", 8))
		require.NoError(t, r.Set(ctx, 1, "new", 3))
		added := make(chan answer[float64], 9)
		for _, m := range []string{"added", "set", "unheard", "\xc1"} {
			// Add waits for the score, and so for the load.
			go func() { v, err := r.Add(ctx, 1, m, 2); added <- answer[float64]{v, err} }()
			require.Eventually(t, func() bool {
				score := rdb.ZScore(ctx, name(t, &r.store, 1), "\xc1+"+stands(m)).Val() + rdb.ZScore(ctx, name(t, &r.store, 1), "\xc1="+stands(m)).Val()
				return score == 2 || score == 9 || score == 10
			}, patience, time.Millisecond)
		}
		require.NoError(t, r.Set(ctx, 1, "unheard", 1)) // after the addition
		require.LessOrEqual(t, rdb.PTTL(ctx, name(t, &r.store, 1)).Val(), someLease, "the lease lasts no longer by it")
		load.returns(board{{"set", 1}, {"added", 40}, {"a", 99}}, nil)
		want := board{{"a", 99}, {"added", 42}, {"\xc1", 10}, {"set", 9}, {"new", 3}, {"unheard", 1}}
		require.Equal(t, answer[board]{want, nil}, receive(t, ch))
		scores := map[float64]bool{}
		for range 4 {
			a := receive(t, added)
			require.NoError(t, a.err)
			scores[a.v] = true
		}
		require.Equal(t, map[float64]bool{42: true, 9: true, 1: true, 10: true}, scores)
		tops(t, r, 1, want)
		s.idle(t)
	})
}

// stands returns the bytes stored for a member.
func stands(m string) string {
	if m == headMarker {
		return headMarker + headMarker
	}
	return m
}

func TestRanking_KeepsItsLimitAfterWritesDuringALoad(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource[board]()
		r := ranking(t, rdb, RankingSpec[int, string]{Up: s.up, Top: 2, Keep: 2})
		ch := asking(t.Context(), &r.store, 1)
		load := receive(t, s.began)
		require.NoError(t, r.Set(t.Context(), 1, "c", 5))
		load.returns(board{{"a", 3}, {"b", 2}}, nil)
		require.Equal(t, answer[board]{board{{"c", 5}, {"a", 3}}, nil}, receive(t, ch))
		require.EqualValues(t, 3, rdb.ZCard(t.Context(), name(t, &r.store, 1)).Val(), "two and the head")
	})
}

func TestRanking_AddToAnAbsentRankingReturnsTheScoreOfTheSource(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		calls := 0
		r := ranking(t, rdb, RankingSpec[int, string]{Up: func(context.Context, int) (board, error) { calls++; return board{{"a", 5}}, nil }})
		adds(t, r, 1, "a", 1, 5) // the source was written first
		adds(t, r, 1, "a", 1, 6)
		require.NoError(t, r.Delete(t.Context(), 1))
		adds(t, r, 1, "x", 1, 0) // the source does not have it among the first
		require.Equal(t, 2, calls)
	})
}

func TestRanking_RemoveFencesALoad(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource[board]()
		r := ranking(t, rdb, RankingSpec[int, string]{Up: s.up})
		ch := asking(t.Context(), &r.store, 1)
		load := receive(t, s.began)
		require.NoError(t, r.Remove(t.Context(), 1, "a"))
		load.returns(board{{"a", 2}, {"b", 1}}, nil)
		receive(t, s.began).returns(board{{"b", 1}}, nil)
		require.Equal(t, answer[board]{board{{"b", 1}}, nil}, receive(t, ch))
		tops(t, r, 1, board{{"b", 1}})
		s.idle(t)
	})
}
