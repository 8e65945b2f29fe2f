package engine

import (
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex/internal/breaker"
	"github.com/cachex-go/cachex/internal/nonzero"
)

// Stats count the calls of an Engine. Each field is a total since New.
type Stats struct {
	Hits           int64         // keys whose value was found in Redis
	StaleHits      int64         // keys whose value was served stale; some of them are misses too
	NotFoundHits   int64         // keys of which Redis knew that they have none
	Misses         int64         // keys for which there was nothing to be served at once
	Loads          int64         // calls of a load function that have ended
	LoadFailures   int64         // of these, those that returned an error other than ErrNotFound
	LoadTime       time.Duration // spent in them, in all
	Waits          int64         // times that a flight waited for a lease of somebody else
	Fenced         int64         // values not stored because something had happened to the key
	StoreFailures  int64         // values not stored for another reason: Redis, the codec, their Life
	DecodeFailures int64         // entries that could not be used and were overwritten
	RedisFailures  int64         // calls to Redis that failed
	Bypasses       int64         // keys that Redis was not asked for, since it had not answered lately
	Breaker        BreakerState  // whether it is asked now; of a Cluster, the worst state of any part
}

// String returns the fields that are not zero, for %v and %+v.
func (s Stats) String() string { return nonzero.Format(s) }

// A BreakerState says whether Redis is asked. All engines of a client share it.
type BreakerState = breaker.State

// The states of the breaker.
const (
	BreakerClosed   = breaker.Closed   // Redis is asked
	BreakerOpen     = breaker.Open     // it is not, since it has not answered lately
	BreakerHalfOpen = breaker.HalfOpen // it is not, but is being probed
)

// counters are Stats that are being counted.
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
