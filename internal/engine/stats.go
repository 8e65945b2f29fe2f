package engine

import (
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex/internal/breaker"
	"github.com/cachex-go/cachex/internal/nonzero"
)

// Stats are the counters of an Engine. Each field is a total since New.
type Stats struct {
	Hits           int64         // keys whose value was found in Redis
	StaleHits      int64         // keys whose value was served stale; some of them are misses too
	NotFoundHits   int64         // keys that Redis remembered to have no value
	Misses         int64         // keys that could not be served at once
	Loads          int64         // calls of a load function that have ended
	LoadFailures   int64         // loads that returned an error other than ErrNotFound
	LoadTime       time.Duration // the total duration of loads
	Waits          int64         // times that a flight waited for the lease of another holder
	Fenced         int64         // values not stored because the key was deleted or written during the load
	StoreFailures  int64         // values not stored for another reason: Redis, the codec, their Life
	DecodeFailures int64         // unusable entries, which were overwritten
	RedisFailures  int64         // calls to Redis that failed
	Bypasses       int64         // keys that Redis was not asked for, because it had not answered recently
	// Breaker is whether Redis is asked now; of a Cluster, the worst state of
	// its nodes.
	Breaker BreakerState
}

// String returns the fields that are not zero, for %v and %+v.
func (s Stats) String() string { return nonzero.Format(s) }

// BreakerState is whether Redis is asked. All engines of a client share it.
type BreakerState = breaker.State

// The states of the breaker.
const (
	BreakerClosed   = breaker.Closed   // Redis is asked
	BreakerOpen     = breaker.Open     // Redis is not asked, because it has not answered recently
	BreakerHalfOpen = breaker.HalfOpen // Redis is not asked, but is being probed
)

// counters are the atomic counters behind Stats.
type counters struct {
	hits, staleHits, notFoundHits, misses                atomic.Int64
	loads, loadFailures, loadTime, waits                 atomic.Int64
	fenced, storeFailures, decodeFailures, redisFailures atomic.Int64
	bypasses                                             atomic.Int64
}

func (c *counters) snapshot() Stats {
	return Stats{
		Hits:           c.hits.Load(),
		StaleHits:      c.staleHits.Load(),
		NotFoundHits:   c.notFoundHits.Load(),
		Misses:         c.misses.Load(),
		Loads:          c.loads.Load(),
		LoadFailures:   c.loadFailures.Load(),
		LoadTime:       time.Duration(c.loadTime.Load()),
		Waits:          c.waits.Load(),
		Fenced:         c.fenced.Load(),
		StoreFailures:  c.storeFailures.Load(),
		DecodeFailures: c.decodeFailures.Load(),
		RedisFailures:  c.redisFailures.Load(),
		Bypasses:       c.bypasses.Load(),
	}
}
