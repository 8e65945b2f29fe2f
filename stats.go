package cachex

import (
	"time"

	"github.com/cachex-go/cachex/internal/breaker"
	"github.com/cachex-go/cachex/internal/nonzero"
	"github.com/cachex-go/cachex/writebehind"
)

// BreakerState says whether reads ask Redis. After failed calls they do not, so
// that callers do not wait for the timeouts of the client. A background probe
// detects when Redis answers again. Caches of one client share the breaker.
type BreakerState uint8

// States of the breaker.
const (
	BreakerClosed   = BreakerState(breaker.Closed)   // reads ask Redis
	BreakerOpen     = BreakerState(breaker.Open)     // reads do not ask Redis
	BreakerHalfOpen = BreakerState(breaker.HalfOpen) // reads do not ask Redis, and a probe is in flight
)

// String returns the state in words.
func (s BreakerState) String() string { return breaker.State(s).String() }

// Stats holds the counters of a Cache. Each is a total since New, for this
// Cache in this process. A read of many keys counts once per key.
type Stats struct {
	Hits           int64         // reads that found a value in Redis
	StaleHits      int64         // reads served a stale value, at once or because Up failed or was slow
	NotFoundHits   int64         // reads that found a remembered ErrNotFound in Redis
	Misses         int64         // reads that found nothing to serve at once
	Loads          int64         // finished calls of Up
	LoadFailures   int64         // finished calls of Up whose error is not ErrNotFound
	LoadTime       time.Duration // total time spent in Up
	Waits          int64         // waits for a load of another Cache or process
	Fenced         int64         // loaded values not stored, because the key was deleted, written or lost during the load
	StoreFailures  int64         // loaded values not stored for another reason: Redis, the codec or TTLFor
	DecodeFailures int64         // reads of unusable bytes, or of a key that is not a string (except by MGET)
	RedisFailures  int64         // failed calls to Redis
	Bypasses       int64         // reads that did not ask Redis, because it had recently not answered

	// ObserverFailures counts calls of Spec.Observer that panicked, or that
	// called runtime.Goexit in a load.
	ObserverFailures int64

	Breaker BreakerState // whether reads ask Redis now; for a Cluster, the worst state of any node

	WriteBehind writebehind.Stats // statistics of Spec.WriteBehind; zero if it is not set
}

// String returns the nonzero fields, for %v and %+v.
func (s Stats) String() string { return nonzero.Format(s) }

// Stats returns a snapshot. Fields are read one after the other, so a call in
// flight may be counted in some of them and not yet in others.
func (c *Cache[K, V]) Stats() Stats { return c.keyed.core.stats() }

func (c *core) stats() Stats {
	l := c.engine.Stats()
	s := Stats{
		Hits:           l.Hits,
		StaleHits:      l.StaleHits,
		NotFoundHits:   l.NotFoundHits,
		Misses:         l.Misses,
		Loads:          l.Loads,
		LoadFailures:   l.LoadFailures,
		LoadTime:       l.LoadTime,
		Waits:          l.Waits,
		Fenced:         l.Fenced,
		StoreFailures:  l.StoreFailures,
		DecodeFailures: l.DecodeFailures,
		RedisFailures:  l.RedisFailures + c.redisFailures.Load(),
		Bypasses:       l.Bypasses,
		Breaker:        BreakerState(l.Breaker),

		ObserverFailures: c.observerFailures.Load(),
	}
	if c.writeBehind != nil {
		s.WriteBehind = c.writeBehind.Stats()
	}
	return s
}
