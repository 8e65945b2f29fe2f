package redistest

import (
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Ring returns a go-redis Ring over servers, closed when the test ends. Of opts,
// which may be nil, the Addrs are those of the servers.
func Ring(t testing.TB, opts *redis.RingOptions, servers ...*Server) *redis.Ring {
	t.Helper()
	var o redis.RingOptions
	if opts != nil {
		o = *opts
	}
	o.Addrs = map[string]string{}
	for i, s := range servers {
		o.Addrs[fmt.Sprint("shard", i+1)] = s.Addr()
	}
	rdb := redis.NewRing(&o)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}
