package collection

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestCollections_RefuseACodecThatIsNotDeterministic(t *testing.T) {
	t.Parallel()
	sealed := codec.Version(codec.Encrypt(codec.For[string](), codec.Key{Secret: make([]byte, 16)}), 1)
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		key := "sealed" + strings.ToLower(rand.Text()) + ":{id}"
		_, unique := NewRecent(rdb, RecentSpec[int, string]{Key: key, TTL: time.Minute, Len: 3, Codec: sealed, Unique: true})
		_, set := NewSet(rdb, SetSpec[int, string]{Key: key, TTL: time.Minute, Codec: sealed})
		_, ranking := NewRanking(rdb, RankingSpec[int, string]{Key: key, TTL: time.Minute, Top: 3, Codec: sealed})
		_, trending := NewTrending(rdb, TrendingSpec[int, string]{Key: key, Bucket: time.Hour, Buckets: 24, Top: 3, Codec: sealed})
		_, feed := NewFeed(rdb, FeedSpec[int, string]{Key: key, TTL: time.Minute, Len: 3, Codec: sealed, Score: func(string) float64 { return 1 }})
		for of, err := range map[string]error{"Recent": unique, "Set": set, "Ranking": ranking, "Trending": trending, "Feed": feed} {
			require.ErrorIs(t, err, codec.ErrConfig, of)
			require.ErrorContains(t, err, "Spec.Codec", of)
			require.ErrorContains(t, err, "Encrypt", of)
		}

		// A list with repetitions works, except Remove.
		r, err := NewRecent(rdb, RecentSpec[int, string]{Key: key, TTL: time.Minute, Len: 3, Codec: sealed})
		require.NoError(t, err)
		require.NoError(t, r.Push(t.Context(), 1, "a"))
		require.ErrorIs(t, r.Remove(t.Context(), 1, "a"), codec.ErrConfig)
		got, err := r.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, []string{"a"}, got)
	})
}
