package client

import (
	"fmt"

	"github.com/redis/go-redis/v9"
)

// StaleReads returns the name of the option by which reads of rdb may be answered by
// a replica or by a copy in the process: with a value that was deleted. It is "" if
// there is none, and also where rdb does not tell: a wrapper or an AutoPipeline hides
// its options, a client of Sentinel hides ReplicaOnly, and a Cluster or a Ring hides
// what its NewClient adds.
func StaleReads(rdb redis.UniversalClient) string {
	switch rdb := rdb.(type) {
	case interface{ Options() *redis.Options }:
		o := rdb.Options()
		switch {
		case o == nil:
		case o.ClientSideCacheConfig != nil:
			return "ClientSideCacheConfig"
		case o.ClientSideCache != nil:
			return "ClientSideCache"
		}
	case interface{ Options() *redis.ClusterOptions }:
		o := rdb.Options()
		switch {
		case o == nil:
		case o.RouteByLatency: // before ReadOnly, which it implies
			return "RouteByLatency"
		case o.RouteRandomly:
			return "RouteRandomly"
		case o.ReadOnly:
			return "ReadOnly"
		}
	}
	return ""
}

// CheckReads returns an error if rdb may answer a read with what was deleted, unless
// that is allowed, by the option of the given name.
func CheckReads(rdb redis.UniversalClient, allowed bool, name string) error {
	if allowed || Nil(rdb) {
		return nil
	}
	if option := StaleReads(rdb); option != "" {
		return fmt.Errorf("the client has the option %s, with which a read may return what was deleted: "+
			"make it without, or set %s", option, name)
	}
	if err := CheckShards(rdb); err != nil {
		return fmt.Errorf("%w, or set %s", err, name)
	}
	return nil
}
