package sizes

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/collection"
	"github.com/cachex-go/cachex/internal/script"
)

// words returns n strings that differ.
func words(first, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint("element-", first+i)
	}
	return all
}

// longest is how many elements a list may have.
const longest = 10_000

func lists(t *testing.T, rdb *redis.Client) []load {
	newList := func(name string, s collection.RecentSpec[int, string]) *collection.Recent[int, string] {
		s.Key, s.TTL, s.Len = name+":{id}", time.Hour, longest
		return cachex.Must(collection.NewRecent(rdb, s))
	}
	once, twice := newList("once", collection.RecentSpec[int, string]{Unique: true}), newList("twice", collection.RecentSpec[int, string]{})
	restored := newList("restored", collection.RecentSpec[int, string]{Unique: true, Up: func(context.Context, int) ([]string, error) {
		return words(0, longest), nil
	}})
	full := func(l *collection.Recent[int, string]) func(*testing.T, context.Context) {
		return func(t *testing.T, ctx context.Context) {
			if all, err := l.Get(ctx, 1); err != nil || len(all) < longest {
				require.NoError(t, l.Delete(ctx, 1))
				require.NoError(t, l.Push(ctx, 1, words(0, longest)...))
			}
		}
	}
	return []load{
		{"Recent.Push of 10,000", nil, full(twice)},
		{"Recent.Push of 1,000, Unique", full(once), func(t *testing.T, ctx context.Context) {
			require.NoError(t, once.Push(ctx, 1, words(longest/2, 1000)...))
		}},
		{"Recent.Push of 1,000 new ones, Unique", full(once), func(t *testing.T, ctx context.Context) {
			require.NoError(t, once.Push(ctx, 1, words(longest, 1000)...))
		}},
		{"Recent.Remove of 1,000", full(twice), func(t *testing.T, ctx context.Context) {
			require.NoError(t, twice.Remove(ctx, 1, words(longest/2, 1000)...))
		}},
		{"Recent.Get", full(twice), func(t *testing.T, ctx context.Context) {
			all, err := twice.Get(ctx, 1)
			require.NoError(t, err)
			require.Len(t, all, longest)
		}},
		{"Recent.Get, restored, Unique", func(t *testing.T, ctx context.Context) { require.NoError(t, restored.Delete(ctx, 1)) }, func(t *testing.T, ctx context.Context) {
			all, err := restored.Get(ctx, 1)
			require.NoError(t, err)
			require.Len(t, all, longest)
		}},
		{"Recent.Delete", full(twice), func(t *testing.T, ctx context.Context) { require.NoError(t, twice.Delete(ctx, 1)) }},
	}
}

func sets(t *testing.T, rdb *redis.Client) []load {
	const n = 100_000
	set := cachex.Must(collection.NewSet(rdb, collection.SetSpec[int, string]{Key: "set:{id}", TTL: time.Hour}))
	restored := cachex.Must(collection.NewSet(rdb, collection.SetSpec[int, string]{
		Key: "restored-set:{id}", TTL: time.Hour, Up: func(context.Context, int) ([]string, error) { return words(0, n), nil },
	}))
	full := func(t *testing.T, ctx context.Context) {
		_, err := set.Add(ctx, 1, words(0, n)...)
		require.NoError(t, err)
	}
	return []load{
		{"Set.Add of 100,000", func(t *testing.T, ctx context.Context) { require.NoError(t, set.Delete(ctx, 1)) }, func(t *testing.T, ctx context.Context) {
			added, err := set.Add(ctx, 1, words(0, n)...)
			require.NoError(t, err)
			require.EqualValues(t, n, added)
		}},
		{"Set.Remove of 100,000", full, func(t *testing.T, ctx context.Context) { require.NoError(t, set.Remove(ctx, 1, words(0, n)...)) }},
		{"Set.Len, restored", func(t *testing.T, ctx context.Context) { require.NoError(t, restored.Delete(ctx, 1)) }, func(t *testing.T, ctx context.Context) {
			got, err := restored.Len(ctx, 1)
			require.NoError(t, err)
			require.EqualValues(t, n, got)
		}},
		{"Set.Get of 100,000", full, func(t *testing.T, ctx context.Context) {
			all, err := set.Get(ctx, 1)
			require.NoError(t, err)
			require.Len(t, all, n)
		}},
		{"Set.Delete", full, func(t *testing.T, ctx context.Context) { require.NoError(t, set.Delete(ctx, 1)) }},
	}
}

func rankings(t *testing.T, rdb *redis.Client) []load {
	const n, meanwhile = 100_000, 2000
	var writes func(id int)
	ranking := cachex.Must(collection.NewRanking(rdb, collection.RankingSpec[int, string]{
		Key: "ranking:{id}", TTL: time.Hour, Top: longest, Keep: n,
		Up: func(_ context.Context, id int) ([]collection.Scored[string], error) {
			all := make([]collection.Scored[string], n)
			for i, w := range words(0, n) {
				all[i] = collection.Scored[string]{Member: w, Score: float64(i)}
			}
			writes(id)
			return all, nil
		},
	}))
	writes = func(id int) {
		if id != 2 {
			return
		}
		var all sync.WaitGroup
		for some := range slices.Chunk(words(n-meanwhile/2, meanwhile), meanwhile/8) {
			all.Go(func() {
				for i, w := range some {
					if i%2 == 0 {
						require.NoError(t, ranking.Set(t.Context(), id, w, 1))
						continue
					}
					reply, err := script.Score.Run(t.Context(), rdb, fmt.Sprint("ranking:", id), true, n, "=", "add", 1, w) // Add would wait for us
					require.NoError(t, err)
					require.Equal(t, int64(2), reply.([]any)[0])
				}
			})
		}
		all.Wait()
	}
	full := func(t *testing.T, ctx context.Context) { _, err := ranking.Get(ctx, 1); require.NoError(t, err) }
	away := func(id int) func(t *testing.T, ctx context.Context) {
		return func(t *testing.T, ctx context.Context) { require.NoError(t, ranking.Delete(ctx, id)) }
	}
	return []load{
		{"Ranking.Get", full, full},
		{"Ranking.Get, restored", away(1), full},
		{"Ranking.Get, restored, much written meanwhile", away(2), func(t *testing.T, ctx context.Context) {
			got, err := ranking.Get(ctx, 2)
			require.NoError(t, err)
			require.Equal(t, collection.Scored[string]{Member: words(n-1, 1)[0], Score: n}, got[0], "it was added to")
		}},
		{"Ranking.Set", full, func(t *testing.T, ctx context.Context) { require.NoError(t, ranking.Set(ctx, 1, "new", 5)) }},
		{"Ranking.Around 500", full, func(t *testing.T, ctx context.Context) {
			near, _, err := ranking.Around(ctx, 1, words(n/2, 1)[0], 500)
			require.NoError(t, err)
			require.Len(t, near, 1001)
		}},
		{"Ranking.Remove of 10,000", full, func(t *testing.T, ctx context.Context) {
			require.NoError(t, ranking.Remove(ctx, 1, words(0, 10_000)...))
		}},
		{"Ranking.Delete", full, func(t *testing.T, ctx context.Context) { require.NoError(t, ranking.Delete(ctx, 1)) }},
	}
}

func trendings(t *testing.T, rdb *redis.Client) []load {
	const buckets, keep, each = 1000, 100_000, 20
	trending := cachex.Must(collection.NewTrending(rdb, collection.TrendingSpec[int, string]{
		Key: "trending:{id}", Bucket: time.Hour, Buckets: buckets, Top: longest, Keep: keep,
	}))
	fill := func(t *testing.T, ctx context.Context) {
		now, err := rdb.Time(ctx).Result()
		require.NoError(t, err)
		p := rdb.Pipeline()
		for i := range buckets - 1 { // of now, and those before, but for a few should the hour end
			key, members := fmt.Sprintf("{trending:1}:%d", now.UnixMilli()/time.Hour.Milliseconds()-int64(i)), each
			if i == 1 {
				members = keep
			}
			zs := make([]redis.Z, 0, 1000)
			for j := range members {
				if zs = append(zs, redis.Z{Member: fmt.Sprint("element-", j), Score: float64(1 + j)}); len(zs) == cap(zs) || j == members-1 {
					p.ZAdd(ctx, key, slices.Clone(zs)...)
					zs = zs[:0]
				}
			}
		}
		_, err = p.Exec(ctx)
		require.NoError(t, err)
	}
	return []load{
		{"Trending.Get", fill, func(t *testing.T, ctx context.Context) {
			top, err := trending.Get(ctx, 1)
			require.NoError(t, err)
			require.Len(t, top, longest)
			require.Equal(t, collection.Scored[string]{Member: "element-99999", Score: keep}, top[0])
		}},
		{"Trending.Add", nil, func(t *testing.T, ctx context.Context) {
			_, err := trending.Add(ctx, 1, "element-1", 1)
			require.NoError(t, err)
		}},
		{"Trending.Remove of 10", nil, func(t *testing.T, ctx context.Context) { require.NoError(t, trending.Remove(ctx, 1, words(0, 10)...)) }},
		{"Trending.Delete", nil, func(t *testing.T, ctx context.Context) { require.NoError(t, trending.Delete(ctx, 1)) }},
	}
}

func feeds(t *testing.T, rdb *redis.Client) []load {
	feed := cachex.Must(collection.NewFeed(rdb, collection.FeedSpec[int, string]{
		Key: "feed:{id}", TTL: time.Hour, Len: longest, Score: func(string) float64 { return 1 },
		Up: func(context.Context, int) ([]string, error) { return words(0, longest), nil },
	}))
	full := func(t *testing.T, ctx context.Context) {
		all, err := feed.Get(ctx, 1)
		require.NoError(t, err)
		require.Len(t, all, longest)
	}
	return []load{
		{"Feed.Get", full, full},
		{"Feed.Post to 1,000", full, func(t *testing.T, ctx context.Context) {
			require.NoError(t, feed.Post(ctx, "new", numbers(0, 1000)...))
		}},
		{"Feed.GetPage of 1,000", full, func(t *testing.T, ctx context.Context) {
			var at collection.Cursor
			for range 5 {
				page, next, err := feed.GetPage(ctx, 1, at, 1000)
				require.NoError(t, err)
				require.Len(t, page, 1000)
				at = next
			}
		}},
		{"Feed.Remove", full, func(t *testing.T, ctx context.Context) { require.NoError(t, feed.Remove(ctx, "element-7", 1)) }},
	}
}
