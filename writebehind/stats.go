package writebehind

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex/internal/nonzero"
)

// Stats are what an Engine has counted in this process since New, and what it has found
// when it last had the turn to look.
type Stats struct {
	Batches       int64 // that were persisted and acknowledged
	Persisted     int64 // ids in them
	Refused       int64 // ids that the database refused for good
	Unread        int64 // ids that this process could not read, and left to others
	Failures      int64 // of Persist, whatever the cause
	Replays       int64 // batches that were taken before, by somebody else or before a failure
	Stale         int64 // batches that somebody else had persisted meanwhile
	Forks         Forks
	RedisFailures int64

	// Eviction is the maxmemory-policy of Redis if that is one of allkeys-*, and may
	// thus evict what is pending; else "", also where it could not be found out.
	Eviction string

	// Backlog is what the fleet had to persist when this process last looked, at
	// Backlog.At. Only one process of the fleet looks in each period. See
	// [Engine.Backlog].
	Backlog Backlog
}

// String returns the fields that are not zero, for %v and %+v.
func (s Stats) String() string { return nonzero.Format(s) }

// Forks count the times that histories have parted, by kind. See [Fork].
type Forks struct {
	Lost, Replayed, RolledBack, Behind int64
}

// A Backlog is what is still to be persisted.
type Backlog struct {
	IDs      int64         // pending
	InFlight int64         // taken, and not acknowledged
	Buckets  int           // that have either
	Oldest   time.Duration // for how long the oldest of them has waited: the lag
	Refused  int64         // put aside. See [Engine.Refused]
	At       time.Time     // when this was so, by the clock of this process

	// Unread is how many ids wait for a process that can read them, since one that
	// took them could not. They are in none of the other counts. Options.Check says
	// what a process can read.
	Unread       int64
	OldestUnread time.Duration // for how long the oldest of these has waited

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

// Backlog asks Redis what is still to be persisted, by the whole fleet. With an error,
// of one of the buckets that could not be asked, it returns what the others have.
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

// counters are Stats that are being counted.
type counters struct {
	batches, persisted, refused, unread, failures, replays, stale, redisFailures atomic.Int64

	forks  [ForkBehind + 1]atomic.Int64
	policy string // guarded by mu of the Engine
}

func (c *counters) fork(f Fork) { c.forks[f].Add(1) }
