package writebehind

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex/internal/nonzero"
)

// Stats holds the counts of an Engine in this process since New, and its last
// look at the backlog.
type Stats struct {
	Batches       int64 // persisted and acknowledged
	Persisted     int64 // ids in Batches
	Refused       int64 // ids that the database refused for good
	Unread        int64 // ids that this process could not read and left to others
	Failures      int64 // of Persist, whatever the cause
	Replays       int64 // batches taken before, by another process or before a failure
	Stale         int64 // batches that another process had persisted meanwhile
	Forks         Forks
	RedisFailures int64

	// Eviction is the maxmemory-policy of Redis if it is one of allkeys-*,
	// which may evict pending ids. Otherwise, or if the policy is unknown, it
	// is "".
	Eviction string

	// Backlog is the backlog of the fleet when this process last looked, at
	// Backlog.At. Only one process of the fleet looks in each period. See
	// [Engine.Backlog].
	Backlog Backlog
}

// String returns the fields that are not zero, for %v and %+v.
func (s Stats) String() string { return nonzero.Format(s) }

// Forks counts the forks by kind. See [Fork].
type Forks struct {
	Lost, Replayed, RolledBack, Behind int64
}

// Backlog counts the ids that are still to persist.
type Backlog struct {
	IDs      int64         // pending
	InFlight int64         // taken and not acknowledged
	Buckets  int           // buckets with pending ids or ids in flight
	Oldest   time.Duration // how long the oldest id has waited: the lag
	Refused  int64         // put aside; see [Engine.Refused]
	At       time.Time     // when this was so, by the clock of this process

	// Unread is how many ids wait for a process that can read them, because a
	// process that took them could not. No other count includes them.
	// Options.Check says which ids a process can read.
	Unread       int64
	OldestUnread time.Duration // how long the oldest unread id has waited

	failed error
}

// Stats returns the counts. It makes no call to Redis.
func (e *Engine) Stats() Stats {
	c := &e.counters
	s := Stats{
		Batches: c.batches.Load(), Persisted: c.persisted.Load(), Refused: c.refused.Load(), Unread: c.unread.Load(),
		Failures: c.failures.Load(), Replays: c.replays.Load(), Stale: c.stale.Load(),
		Forks: Forks{
			Lost: c.forks[ForkLost].Load(), Replayed: c.forks[ForkReplayed].Load(),
			RolledBack: c.forks[ForkRolledBack].Load(), Behind: c.forks[ForkBehind].Load(),
		},
		RedisFailures: c.redisFailures.Load(),
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.Eviction, s.Backlog = c.policy, e.last
	return s
}

// Backlog asks Redis for the backlog of the whole fleet. If a bucket cannot be
// asked, Backlog returns its error and the backlog of the other buckets.
func (e *Engine) Backlog(ctx context.Context) (Backlog, error) {
	err := e.open(ctx)
	var b Backlog
	if err == nil {
		var all []findings
		if all, err = e.survey(ctx, false); err == nil {
			b = total(all)
			b.At, err = time.Now(), b.failed
		}
	}
	if err != nil {
		return b, fmt.Errorf("cachex: backlog %s: %w", e.o.Name, err)
	}
	return b, nil
}

func total(all []findings) Backlog {
	var b Backlog
	for _, f := range all {
		if f.err != nil {
			b.failed = f.err
		}
		b.IDs += f.pending
		b.InFlight += f.inFlight
		b.Refused += f.refused
		b.Oldest = max(b.Oldest, f.pendingAge, f.flightAge)
		b.Unread += f.unread
		b.OldestUnread = max(b.OldestUnread, f.unreadAge)
		if f.pending > 0 || f.inFlight > 0 {
			b.Buckets++
		}
	}
	return b
}

// counters are the live counts of Stats.
type counters struct {
	batches, persisted, refused, unread, failures, replays, stale, redisFailures atomic.Int64

	forks  [ForkBehind + 1]atomic.Int64
	policy string // guarded by mu of the Engine
}

func (c *counters) fork(f Fork) { c.forks[f].Add(1) }
