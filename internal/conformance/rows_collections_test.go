package conformance

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/collection"
)

var collections = []row{{
	feature: "`collection.Recent`", proves: "the latest ones, restored once",
	run: func(t *testing.T, w *world) {
		loads := 0 // not guarded: the loads follow each other
		spec := collection.RecentSpec[int, string]{Key: w.prefix + ":{id}", TTL: time.Hour, Len: 3, Up: func(context.Context, int) ([]string, error) {
			loads++
			return []string{"b", "a"}, nil
		}}
		a, b := pair(t, w, func(rdb redis.UniversalClient) (*collection.Recent[int, string], error) {
			return collection.NewRecent(rdb, spec)
		})
		for id := range 5 {
			got, err := a.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, []string{"b", "a"}, got)
			require.NoError(t, b.Push(t.Context(), id, "c", "d"))
			got, err = b.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, []string{"d", "c", "b"}, got)
			require.NoError(t, a.Remove(t.Context(), id, "c"))
			got, err = b.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, []string{"d", "b"}, got)
		}
		require.Equal(t, 5, loads)
	},
}, {
	feature: "`collection.Ranking`", proves: "the highest scores, restored once",
	run: func(t *testing.T, w *world) {
		spec := collection.RankingSpec[int, string]{Key: w.prefix + ":{id}", TTL: time.Hour, Top: 2, Up: func(context.Context, int) ([]collection.Scored[string], error) {
			return []collection.Scored[string]{{Member: "a", Score: 1}, {Member: "b", Score: 2}}, nil
		}}
		a, b := pair(t, w, func(rdb redis.UniversalClient) (*collection.Ranking[int, string], error) {
			return collection.NewRanking(rdb, spec)
		})
		for id := range 5 {
			_, err := a.Get(t.Context(), id)
			require.NoError(t, err)
			n, err := a.Add(t.Context(), id, "a", 4)
			require.NoError(t, err)
			require.EqualValues(t, 5, n)
			require.NoError(t, b.Set(t.Context(), id, "c", 3))
			got, err := b.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, []collection.Scored[string]{{Member: "a", Score: 5}, {Member: "c", Score: 3}}, got)
			rank, score, err := a.Rank(t.Context(), id, "c")
			require.NoError(t, err)
			require.Equal(t, "2 3", fmt.Sprint(rank, score))
			require.NoError(t, a.Remove(t.Context(), id, "c"))
			_, _, err = b.Rank(t.Context(), id, "c")
			require.ErrorIs(t, err, missing)
		}
	},
}, {
	feature: "`collection.Set`", proves: "each member once; one of many callers is told that it is new",
	run: func(t *testing.T, w *world) {
		spec := collection.SetSpec[int, string]{Key: w.prefix + ":{id}", TTL: time.Hour, Up: func(context.Context, int) ([]string, error) {
			return []string{"a"}, nil
		}}
		a, b := pair(t, w, func(rdb redis.UniversalClient) (*collection.Set[int, string], error) {
			return collection.NewSet(rdb, spec)
		})
		for id := range 5 {
			for i, c := range []*collection.Set[int, string]{a, b} {
				n, err := c.Add(t.Context(), id, "a", "b")
				require.NoError(t, err)
				require.EqualValues(t, 1-i, n)
			}
			has, err := b.Has(t.Context(), id, "b")
			require.NoError(t, err)
			require.True(t, has)
			n, err := a.Len(t.Context(), id)
			require.NoError(t, err)
			require.EqualValues(t, 2, n)
		}
		require.NoError(t, a.Remove(t.Context(), 1, "b"))
		both, err := b.Intersect(t.Context(), 1, 2)
		require.NoError(t, err)
		require.Equal(t, []string{"a"}, both)
		require.NoError(t, a.Delete(t.Context(), 2))
		got, err := b.Get(t.Context(), 2)
		require.NoError(t, err)
		slices.Sort(got)
		require.Equal(t, []string{"a"}, got)
	},
}, {
	feature: "`collection.Feed`", proves: "posts reach many timelines, in order and each once; restored once",
	run: func(t *testing.T, w *world) {
		var mu sync.Mutex
		loads := 0
		spec := collection.FeedSpec[int, int64]{
			Key: w.prefix + ":{id}", TTL: time.Hour, Len: 3, Score: func(id int64) float64 { return float64(id) },
			Up: func(context.Context, int) ([]int64, error) {
				mu.Lock()
				defer mu.Unlock()
				loads++
				return []int64{1, 2}, nil
			},
		}
		a, b := pair(t, w, func(rdb redis.UniversalClient) (*collection.Feed[int, int64], error) {
			return collection.NewFeed(rdb, spec)
		})
		require.NoError(t, a.Post(t.Context(), 9, upTo(30)...), "nobody has a timeline, so nothing is kept")
		for id := range 30 {
			got, err := a.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, []int64{2, 1}, got)
		}
		for _, elem := range []int64{5, 4, 5} {
			require.NoError(t, b.Post(t.Context(), elem, upTo(30)...))
		}
		require.NoError(t, a.Remove(t.Context(), 4, 7))
		for id := range 30 {
			got, err := b.Get(t.Context(), id)
			require.NoError(t, err)
			want := []int64{5, 4, 2}
			if id == 7 {
				want = []int64{5, 2}
			}
			require.Equal(t, want, got)
		}
		page, _, err := a.GetPage(t.Context(), 1, "", 2)
		require.NoError(t, err)
		require.Equal(t, []int64{5, 4}, page)
		require.Equal(t, 30, loads)
	},
}, {
	feature: "`collection.Trending`", proves: "the sums of a window, the same for two processes",
	run: func(t *testing.T, w *world) {
		a, b := w.trends(t, 2)
		for id := range 5 {
			for i, member := range []string{"a", "b", "c", "a"} {
				sum, err := []*collection.Trending[int, string]{a, b}[i%2].Add(t.Context(), id, member, float64(i+1))
				require.NoError(t, err)
				require.EqualValues(t, []int{1, 2, 3, 5}[i], sum)
			}
			got, err := b.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, []collection.Scored[string]{{Member: "a", Score: 5}, {Member: "c", Score: 3}}, got)
			require.NoError(t, a.Remove(t.Context(), id, "a"))
			got, err = b.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, []collection.Scored[string]{{Member: "c", Score: 3}, {Member: "b", Score: 2}}, got)
			require.NoError(t, b.Delete(t.Context(), id))
			got, err = a.Get(t.Context(), id)
			require.NoError(t, err)
			require.Empty(t, got)
		}
	},
}}

// trends returns two of a kind that has nothing to close.
func (w *world) trends(t *testing.T, top int) (a, b *collection.Trending[int, string]) {
	t.Helper()
	spec := collection.TrendingSpec[int, string]{Key: w.prefix + ":trending:{id}", Bucket: 24 * time.Hour, Buckets: 3, Top: top}
	a, err := collection.NewTrending(w.a, spec)
	require.NoError(t, err)
	b, err = collection.NewTrending(w.b, spec)
	require.NoError(t, err)
	return a, b
}
