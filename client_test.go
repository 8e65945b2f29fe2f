package cachex_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/counter"
)

func TestNew_RefusesAClientWhoseReadsMayBeStale(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, RouteByLatency: true})
	t.Cleanup(func() { _ = rdb.Close() })
	const refused = "cachex: the client has the option RouteByLatency, with which a read may return what was deleted: " +
		"make it without, or set Spec.AllowStaleReads"
	for _, allow := range []bool{false, true} {
		_, cache := cachex.New(rdb, cachex.Spec[int, int]{Key: "k:{id}", TTL: time.Minute, AllowStaleReads: allow})
		_, count := counter.New(rdb, counter.Spec[int]{Key: "n:{id}", TTL: time.Minute, AllowStaleReads: allow})
		for _, err := range []error{cache, count} {
			if allow {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, refused)
			}
		}
	}
}
