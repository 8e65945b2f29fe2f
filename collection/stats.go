package collection

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/circuit"
	"github.com/cachex-go/cachex/internal/nonzero"
)

// Stats are what a collection has counted. Each is a total since New, of this value
// in this process. A call that reads counts once for each key, whether it is Get, a
// part of a batch, or Has, Rank and the like.
type Stats struct {
	Hits          int64         // reads that found the collection
	Misses        int64         // reads that did not: it was absent, foreign, or Redis failed or was not asked
	Loads         int64         // calls of Up that have ended
	LoadFailures  int64         // of these, those that failed
	LoadTime      time.Duration // spent in Up, in all
	Waits         int64         // times that a load of another process was waited for
	Fenced        int64         // loaded collections not stored, since they were deleted or lost meanwhile
	RedisFailures int64         // reads that failed, and loaded collections not stored, because of Redis
	Bypasses      int64         // reads that did not ask Redis, since it had not answered lately

	// Breaker says whether reads ask Redis now; of a Cluster, the worst state of any
	// part. It is that of the client: its caches and collections share it.
	Breaker cachex.BreakerState
}

// String returns the fields that are not zero, for %v and %+v.
func (s Stats) String() string { return nonzero.Format(s) }

// Stats returns a snapshot. The fields are read one after the other, so a call under
// way may be counted in some of them and not yet in others.
func (h *home[K, T]) Stats() Stats {
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
		Breaker:       h.away.State(),
	}
}

// counters are Stats that are being counted.
type counters struct {
	hits, misses, loads, loadFailures, loadTime, waits, fenced, redisFailures, bypasses atomic.Int64
}

// saw counts the first look of a read.
func (c *counters) saw(s sight, err error) {
	switch {
	case errors.Is(err, circuit.ErrAway):
		c.bypasses.Add(1)
		c.misses.Add(1)
	case err != nil:
		c.redisFailures.Add(1)
		c.misses.Add(1)
	case s.whole:
		c.hits.Add(1)
	default:
		c.misses.Add(1)
	}
}
