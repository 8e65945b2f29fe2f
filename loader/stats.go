package loader

import (
	"time"

	"github.com/cachex-go/cachex/internal/nonzero"
)

// Stats count the calls of a Loader. Each field is a total since New.
type Stats struct {
	Hits           int64         // keys whose fresh value was in Redis
	StaleHits      int64         // keys whose stale value was served; some of them are misses too
	NotFoundHits   int64         // keys for which Redis remembered ErrNotFound
	Misses         int64         // keys without a value that could be served at once
	Loads          int64         // calls of load that have ended
	LoadFailures   int64         // loads that returned an error other than ErrNotFound
	LoadTime       time.Duration // time spent in loads, in all
	Waits          int64         // times that a load waited for the lease of another process
	Fenced         int64         // values not stored because the key was deleted or written during the load
	StoreFailures  int64         // values not stored for another reason: Redis, the codec, the Life
	DecodeFailures int64         // entries that could not be decoded, and were overwritten
	RedisFailures  int64         // calls to Redis that failed
	Bypasses       int64         // keys for which Redis was not asked, since the breaker was open
}

// String returns the fields that are not zero, for %v and %+v.
func (s Stats) String() string { return nonzero.Format(s) }

// Stats returns a snapshot. Fields are read one by one, so a call that is under
// way may be counted in some fields and not in others.
func (l *Loader[V]) Stats() Stats {
	s := l.engine.Stats()
	return Stats{
		Hits:           s.Hits,
		StaleHits:      s.StaleHits,
		NotFoundHits:   s.NotFoundHits,
		Misses:         s.Misses,
		Loads:          s.Loads,
		LoadFailures:   s.LoadFailures,
		LoadTime:       s.LoadTime,
		Waits:          s.Waits,
		Fenced:         s.Fenced,
		StoreFailures:  s.StoreFailures,
		DecodeFailures: s.DecodeFailures,
		RedisFailures:  s.RedisFailures,
		Bypasses:       s.Bypasses,
	}
}
