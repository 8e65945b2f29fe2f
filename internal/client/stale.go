package client

import (
	"fmt"

	"github.com/redis/go-redis/v9"
)

// StaleReads returns the name of the option that lets a replica, or a copy in
// the process, answer reads of rdb. Such a read may return a deleted value. The
// result is "" if no such option is set, or if rdb hides its options. A wrapper
// or an AutoPipeline hides all of them, and a client of Sentinel hides
// ReplicaOnly. A Cluster or a Ring hides the options that its NewClient adds.
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

// CheckReads returns an error if rdb may answer a read with a deleted value. If
// allowed is true, it returns nil. name is the option that allows it.
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
