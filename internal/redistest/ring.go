package redistest

import (
	"cmp"
	"fmt"
	"math"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Ring returns a go-redis Ring over servers, which is closed when the test
// ends. opts may be nil. Ring replaces its Addrs by the servers.
// HeartbeatFrequency defaults to never: the Ring drops no shard.
func Ring(t testing.TB, opts *redis.RingOptions, servers ...*Server) *redis.Ring {
	t.Helper()
	var o redis.RingOptions
	if opts != nil {
		o = *opts
	}
	o.ReadTimeout, o.WriteTimeout = cmp.Or(o.ReadTimeout, replyTimeout()), cmp.Or(o.WriteTimeout, replyTimeout())
	if o.HeartbeatFrequency == 0 {
		o.HeartbeatFrequency = math.MaxInt64
	}
	o.Addrs = map[string]string{}
	for i, s := range servers {
		o.Addrs[fmt.Sprint("shard", i+1)] = s.Addr()
	}
	rdb := redis.NewRing(&o)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}
