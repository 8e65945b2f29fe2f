package client

import (
	"errors"
	"math"
	"time"

	"github.com/redis/go-redis/v9"
)

// Never is the RingOptions.HeartbeatFrequency of a Ring that drops no shard.
// The public packages call it cachex.Forever. A Ring checks its shards once a
// period, and the first period ends after 292 years. So the shard of a key
// depends only on the names of all shards.
//
// A HeartbeatFn that always returns true has the same effect, but functions
// cannot be compared. A call of it would prove only one answer.
const Never time.Duration = math.MaxInt64

// Errors of CheckShards. "As it was" covers every state of a key: a value
// deleted since, a gate that was open, a count taken elsewhere.
var (
	errDrops = errors.New("the client is a Ring that drops a shard which does not answer, and takes it back later as it was: " +
		"set RingOptions.HeartbeatFrequency to cachex.Forever")
	errHides = errors.New("the client hides the options of its Ring, which may drop a shard and take it back later as it was: " +
		"give its type the method Options of the Ring")
)

// CheckShards returns an error if rdb is a Ring that may drop a shard from
// rotation. While a shard is dropped, its keys are on other shards. When it
// returns, each key is as it was before. A write to the substitute is lost
// until the shard is dropped again. A Ring whose options are hidden by a
// wrapper is refused too, since a Ring drops shards by default.
//
// CheckShards does not detect SetAddrs, which moves keys as well, or a
// NewConsistentHash that differs between processes.
func CheckShards(rdb redis.UniversalClient) error {
	if Nil(rdb) {
		return nil
	}
	if ring, ok := rdb.(interface{ Options() *redis.RingOptions }); ok {
		if o := ring.Options(); o != nil && o.HeartbeatFrequency == Never {
			return nil
		}
		return errDrops
	}
	if TopologyOf(rdb) == Ring {
		return errHides
	}
	return nil
}
