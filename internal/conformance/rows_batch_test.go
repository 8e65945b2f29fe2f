package conformance

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/collection"
	"github.com/cachex-go/cachex/counter"
)

var batches = []row{{
	feature: "`batch`", proves: "values and counts of several caches, loaded side by side and stored",
	run: func(t *testing.T, w *world) {
		users, jobs := newSource(20), newSource(20)
		for _, s := range []*source{users, jobs} {
			s.drop(19)
		}
		a, _ := w.caches(t, cachex.Spec[int, string]{Key: w.prefix + ":user:{id}", UpMany: users.many})
		b, _ := w.caches(t, cachex.Spec[int, string]{Key: w.prefix + ":job:{id}", Up: jobs.up})
		views, _ := w.counters(t, counter.Spec[int]{Up: func(_ context.Context, id int) (int64, error) { return int64(id), nil }})
		for range 2 {
			var batched batch.Batch
			many, one := batch.GetMany(&batched, a, upTo(20)), batch.Get(&batched, b, 7)
			none, count := batch.Get(&batched, b, 19), batch.Get(&batched, views, 5)
			require.NoError(t, batched.Run(t.Context()))
			got, err := many.Get()
			require.NoError(t, err)
			require.Len(t, got, 19)
			v, err := one.Get()
			require.NoError(t, err)
			require.Equal(t, jobs.value(7), v)
			_, err = none.Get()
			require.ErrorIs(t, err, missing)
			n, err := count.Get()
			require.NoError(t, err)
			require.EqualValues(t, 5, n)
		}
		w.requireQueries(t, 2, users, "the second time for what does not exist")
		require.Equal(t, 3, jobs.asked())
	},
}, {
	feature: "`batch` of all kinds", proves: "collections, counts and packed entries too, restored at first and read then",
	run: func(t *testing.T, w *world) {
		s := newSource(5)
		plain, _ := w.caches(t, cachex.Spec[int, string]{Key: w.prefix + ":plain:{id}", Up: s.up})
		pack, _ := w.caches(t, cachex.Spec[int, string]{Key: w.prefix + ":packed:{id}", Packed: 10, UpMany: s.many})
		views, _ := w.counters(t, counter.Spec[int]{
			FlushEvery: time.Hour,
			Up:         func(_ context.Context, id int) (int64, error) { return int64(100 * id), nil },
			Down:       func(context.Context, counter.Flush[int]) error { return nil },
		})
		recent, _ := pair(t, w, func(rdb redis.UniversalClient) (*collection.Recent[int, string], error) {
			return collection.NewRecent(rdb, collection.RecentSpec[int, string]{
				Key: w.prefix + ":recent:{id}", TTL: time.Hour, Len: 3,
				Up: func(context.Context, int) ([]string, error) { return []string{"b", "a"}, nil },
			})
		})
		ranking, _ := pair(t, w, func(rdb redis.UniversalClient) (*collection.Ranking[int, string], error) {
			return collection.NewRanking(rdb, collection.RankingSpec[int, string]{
				Key: w.prefix + ":ranking:{id}", TTL: time.Hour, Top: 1,
				Up: func(context.Context, int) ([]collection.Scored[string], error) { return scored("a", 1, "b", 2), nil },
			})
		})
		set, _ := pair(t, w, func(rdb redis.UniversalClient) (*collection.Set[int, string], error) {
			return collection.NewSet(rdb, collection.SetSpec[int, string]{
				Key: w.prefix + ":set:{id}", TTL: time.Hour,
				Up: func(context.Context, int) ([]string, error) { return []string{"a"}, nil },
			})
		})
		feed, _ := pair(t, w, func(rdb redis.UniversalClient) (*collection.Feed[int, int64], error) {
			return collection.NewFeed(rdb, collection.FeedSpec[int, int64]{
				Key: w.prefix + ":feed:{id}", TTL: time.Hour, Len: 3, Score: func(id int64) float64 { return float64(id) },
				Up: func(context.Context, int) ([]int64, error) { return []int64{1, 2}, nil },
			})
		})
		trending, other := w.trends(t, 1)
		for id := range 5 {
			_, err := other.Add(t.Context(), id, "a", 3)
			require.NoError(t, err)
			for range 2 {
				var b batch.Batch
				value, entries, count := batch.Get(&b, plain, id), batch.GetMany(&b, pack, upTo(5)), batch.GetMany(&b, views, []int{id, 7})
				latest, top, members := batch.Get(&b, recent, id), batch.Get(&b, ranking, id), batch.Get(&b, set, id)
				posts, lately := batch.Get(&b, feed, id), batch.Get(&b, trending, id)
				require.NoError(t, b.Run(t.Context()))
				answers(t, s.value(id), value)
				answers(t, s.values, entries)
				answers(t, map[int]int64{id: int64(100 * id), 7: 700}, count)
				answers(t, []string{"b", "a"}, latest)
				answers(t, scored("b", 2), top)
				answers(t, []string{"a"}, members)
				answers(t, []int64{2, 1}, posts)
				answers(t, scored("a", 3), lately)
			}
		}
		require.Equal(t, 5+5, s.asked())
	},
}}

func answers[V any](t *testing.T, want V, v *batch.Value[V]) {
	t.Helper()
	got, err := v.Get()
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func scored(membersAndScores ...any) (all []collection.Scored[string]) {
	for i := 0; i < len(membersAndScores); i += 2 {
		all = append(all, collection.Scored[string]{Member: membersAndScores[i].(string), Score: float64(membersAndScores[i+1].(int))})
	}
	return all
}
