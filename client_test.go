package cachex_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/collection"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/gate"
	"github.com/cachex-go/cachex/httpcache"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

type closer interface {
	Close(ctx context.Context) error
}

// kinds returns the error of New of each kind that has AllowStaleReads, by its name.
// The error of httpcache is in the form of the others.
func kinds(rdb redis.UniversalClient, allow bool) map[string]string {
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
	texts := map[string]string{}
	for name, err := range map[string]error{
		"cache": cache, "counter": count, "recent": recent, "ranking": ranking, "set": set, "feed": feed, "trending": trending, "httpcache": pages,
	} {
		if err != nil {
			_, texts[name], _ = strings.Cut(err.Error(), "the client ")
			texts[name] = strings.Replace(texts[name], "Options.AllowStaleReads", "Spec.AllowStaleReads", 1)
		}
	}
	return texts
}

// all returns what kinds returns if every kind returns the same error.
func all(text string) map[string]string {
	texts := map[string]string{}
	for _, name := range []string{"cache", "counter", "recent", "ranking", "set", "feed", "trending", "httpcache"} {
		texts[name] = text
	}
	return texts
}

func TestNew_RefusesAClientWhoseReadsMayBeStale(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, RouteByLatency: true})
	t.Cleanup(func() { _ = rdb.Close() })
	require.Equal(t, all("has the option RouteByLatency, with which a read may return what was deleted: "+
		"make it without, or set Spec.AllowStaleReads"), kinds(rdb, false))
	require.Empty(t, kinds(rdb, true))
}

func TestNew_RefusesARingThatMayDropAShard(t *testing.T) {
	t.Parallel()
	ring := func(frequency time.Duration) *redis.Ring {
		rdb := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}, HeartbeatFrequency: frequency})
		t.Cleanup(func() { _ = rdb.Close() })
		return rdb
	}
	drops, keeps := ring(time.Hour), ring(cachex.Forever)
	const refused = "is a Ring that drops a shard which does not answer, and takes it back later as it was: " +
		"set RingOptions.HeartbeatFrequency to cachex.Forever"
	require.Equal(t, all(refused+", or set Spec.AllowStaleReads"), kinds(drops, false))
	require.Empty(t, kinds(drops, true))
	require.Empty(t, kinds(keeps, false))
	require.Equal(t, all("hides the options of its Ring, which may drop a shard and take it back later as it was: "+
		"give its type the method Options of the Ring, or set Spec.AllowStaleReads"), kinds(struct{ redis.UniversalClient }{keeps}, false))

	// What would be lost, and not only stale, is refused nevertheless.
	for _, row := range []struct {
		prefix string
		open   func(redis.UniversalClient) (closer, error)
	}{
		{"cachex: ", func(rdb redis.UniversalClient) (closer, error) {
			return cachex.New(rdb, cachex.Spec[int, int]{
				Key: "b:{id}", TTL: time.Minute, WriteBehind: time.Second, AllowStaleReads: true,
				DownMany: func(context.Context, map[int]int) error { return nil },
			})
		}},
		{"cachex: ", func(rdb redis.UniversalClient) (closer, error) {
			return counter.New(rdb, counter.Spec[int]{
				Key: "c:{id}", TTL: time.Minute, AllowStaleReads: true,
				Up:   func(context.Context, int) (int64, error) { return 0, nil },
				Down: func(context.Context, counter.Flush[int]) error { return nil },
			})
		}},
		{"cachex: new write-behind: ", func(rdb redis.UniversalClient) (closer, error) {
			return writebehind.New(rdb, writebehind.Options{
				Name: "e", Merge: writebehind.Sum, Persist: func(context.Context, ledger.Batch) error { return nil },
			})
		}},
		{"cachex: gate: ", func(rdb redis.UniversalClient) (closer, error) {
			_, err := gate.New(rdb, gate.Spec[int]{Key: "g:{id}", Every: time.Minute})
			return nil, err
		}},
	} {
		_, err := row.open(drops)
		require.EqualError(t, err, row.prefix+"the client "+refused)
		kept, err := row.open(keeps)
		require.NoError(t, err)
		if kept != nil {
			require.NoError(t, kept.Close(t.Context()))
		}
	}
}
