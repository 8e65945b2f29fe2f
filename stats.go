package cachex

import (
	"time"

	"github.com/cachex-go/cachex/internal/breaker"
	"github.com/cachex-go/cachex/internal/nonzero"
	"github.com/cachex-go/cachex/writebehind"
)

// BreakerState says whether reads ask Redis. After failed calls they do not, so
// that no caller waits for the timeouts of the client. A probe in the background
// detects that Redis answers again. Caches of one client share the breaker.
type BreakerState uint8

// The states of the breaker.
const (
	BreakerClosed   = BreakerState(breaker.Closed)   // reads ask Redis
	BreakerOpen     = BreakerState(breaker.Open)     // reads do not ask Redis
	BreakerHalfOpen = BreakerState(breaker.HalfOpen) // reads do not ask Redis, and a probe is under way
)

// String returns the state in words.
func (s BreakerState) String() string { return breaker.State(s).String() }

// Stats are what a Cache has counted. Each is a total since New, of this Cache
// in this process. A read of many keys counts once for each.
type Stats struct {
	Hits           int64         // reads that found a value in Redis
	StaleHits      int64         // reads that were served a stale one, at once or because Up failed or was slow
	NotFoundHits   int64         // reads that found in Redis that there is none
	Misses         int64         // reads that found nothing that could be served at once
	Loads          int64         // calls of Up that have ended
	LoadFailures   int64         // of these, those that failed otherwise than with ErrNotFound
	LoadTime       time.Duration // spent in Up, in all
	Waits          int64         // times that a load of another Cache or process was waited for
	Fenced         int64         // loaded values not stored, since the key was deleted, written or lost meanwhile
	StoreFailures  int64         // loaded values not stored for another reason: Redis, the codec, TTLFor
	DecodeFailures int64         // reads of bytes that could not be used; and of a key that is no string, but not by MGET
	RedisFailures  int64         // calls to Redis that failed
	Bypasses       int64         // reads that did not ask Redis, since it had not answered lately

	// ObserverFailures counts calls of Spec.Observer that panicked, or that called
	// runtime.Goexit in a load.
	ObserverFailures int64

	Breaker BreakerState // whether reads ask Redis now; of a Cluster, the worst state of any part

	WriteBehind writebehind.Stats // of Spec.WriteBehind; zero without
}

// String returns the fields that are not zero, for %v and %+v.
func (s Stats) String() string { return nonzero.Format(s) }

// Stats returns a snapshot. The fields are read one after the other, so a call
// under way may be counted in some of them and not yet in others.
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
