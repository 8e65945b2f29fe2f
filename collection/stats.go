package collection

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/circuit"
	"github.com/cachex-go/cachex/internal/nonzero"
)

// Stats counts the calls of a collection. Each field is a total since New, for
// this value in this process. A reading call counts once for each key: Get, a
// part of a batch, Has, Rank and so on.
type Stats struct {
	Hits          int64         // reads that found the collection
	Misses        int64         // reads that did not: absent, foreign, or Redis failed or was not asked
	Loads         int64         // calls of Up that have ended
	LoadFailures  int64         // of these, calls that failed
	LoadTime      time.Duration // total time in Up
	Waits         int64         // times that a load waited for another process
	Fenced        int64         // loaded collections not stored, because they were deleted or lost during the load
	RedisFailures int64         // failed reads, and loaded collections not stored, because of Redis
	Bypasses      int64         // reads that did not ask Redis, because the breaker was open

	// Breaker is the present state of the breaker; for a Cluster, the worst
	// state of any part. All caches and collections of a client share it.
	Breaker cachex.BreakerState
}

// String returns the fields that are not zero, for %v and %+v.
func (s Stats) String() string { return nonzero.Format(s) }

// Stats returns a snapshot. The fields are read one after the other, so a
// concurrent call may be counted in some of them and not yet in others.
func (h *store[K, T]) Stats() Stats {
	c := &h.stats
	return Stats{
		Hits:          c.hits.Load(),
		Misses:        c.misses.Load(),
		Loads:         c.loads.Load(),
		LoadFailures:  c.loadFailures.Load(),
		LoadTime:      time.Duration(c.loadTime.Load()),
		Waits:         c.waits.Load(),
		Fenced:        c.fenced.Load(),
		RedisFailures: c.redisFailures.Load(),
		Bypasses:      c.bypasses.Load(),
		Breaker:       cachex.BreakerState(h.breakers.State()),
	}
}

// counters holds the counts behind Stats.
type counters struct {
	hits, misses, loads, loadFailures, loadTime, waits, fenced, redisFailures, bypasses atomic.Int64
}

// countRead counts the first read of a request.
func (c *counters) countRead(s readState, err error) {
	switch {
	case errors.Is(err, circuit.ErrAway):
		c.bypasses.Add(1)
		c.misses.Add(1)
	case err != nil:
		c.redisFailures.Add(1)
		c.misses.Add(1)
	case s.complete:
		c.hits.Add(1)
	default:
		c.misses.Add(1)
	}
}
