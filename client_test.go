package cachex_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/collection"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/middleware/httpcache"
)

func TestNew_RefusesAClientWhoseReadsMayBeStale(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, RouteByLatency: true})
	t.Cleanup(func() { _ = rdb.Close() })
	const refused = "the client has the option RouteByLatency, with which a read may return what was deleted: " +
		"make it without, or set Spec.AllowStaleReads"
	for _, allow := range []bool{false, true} {
		_, cache := cachex.New(rdb, cachex.Spec[int, int]{Key: "k:{id}", TTL: time.Minute, AllowStaleReads: allow})
		_, count := counter.New(rdb, counter.Spec[int]{Key: "n:{id}", TTL: time.Minute, AllowStaleReads: allow})
		_, recent := collection.NewRecent(rdb, collection.RecentSpec[int, int]{Key: "r:{id}", TTL: time.Minute, Len: 3, AllowStaleReads: allow})
		_, ranking := collection.NewRanking(rdb, collection.RankingSpec[int, int]{Key: "t:{id}", TTL: time.Minute, Top: 3, AllowStaleReads: allow})
		_, set := collection.NewSet(rdb, collection.SetSpec[int, int]{Key: "s:{id}", TTL: time.Minute, AllowStaleReads: allow})
		_, feed := collection.NewFeed(rdb, collection.FeedSpec[int, int]{Key: "f:{id}", TTL: time.Minute, Len: 3, Score: func(int) float64 { return 0 }, AllowStaleReads: allow})
		_, trending := collection.NewTrending(rdb, collection.TrendingSpec[int, int]{
			Key: "w:{id}", Bucket: time.Minute, Buckets: 5, Top: 3, AllowStaleReads: allow,
		})
		_, pages := httpcache.New(rdb, http.NotFoundHandler(), httpcache.Options{Name: "pages", AllowStaleReads: allow})
		for name, err := range map[string]error{
			"": cache, " ": count, "recent: ": recent, "ranking: ": ranking, "set: ": set, "feed: ": feed, "trending: ": trending,
		} {
			if allow {
				require.NoError(t, err, name)
			} else {
				require.EqualError(t, err, "cachex: "+strings.TrimLeft(name, " ")+refused)
			}
		}
		if allow {
			require.NoError(t, pages)
		} else {
			require.EqualError(t, pages, "httpcache: "+strings.Replace(refused, "Spec.", "Options.", 1))
		}
	}
}
