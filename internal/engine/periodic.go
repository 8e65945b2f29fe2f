package engine

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/periodic"
)

// Turns do something for each of many keys once in every period, in one process
// of the fleet.
//
// The turn of a key is a record in Redis, in a key of its own. The process that
// takes it does the work, keeps it by a heartbeat meanwhile, and says when it is
// done. That process looks first in the next period, so a key stays where it is as
// long as its process keeps up. Of the other processes, one looks in each period, a
// little later, and takes the turn over if its process has died.
//
// Turns are for efficiency, as leases are: a record that is lost makes the work be
// done once more. Make one with Engine.Turns.
type Turns struct {
	// Places is how many calls of refresh run at once. Defaults to 16.
	Places int

	// Chunk is how many keys one call of refresh is given, at most. Defaults to 1.
	Chunk int

	rdb    redis.UniversalClient
	ttl    time.Duration
	hold   func() bool // reports whether the Engine is open, and keeps its Close waiting
	unhold func()
	spawn  guard.Spawn // in a goroutine that Close waits for
	failed func()      // counts a round trip that failed
}

// The shortest and the longest period.
const (
	MinPeriod = 100 * time.Millisecond
	MaxPeriod = maxLife

	defaultPlaces = 16
)

// Turns returns turns that are held for the LeaseTTL of l, and whose failures l
// counts. It makes no call to Redis.
func (l *Engine) Turns() *Turns {
	fs := &l.flights
	return &Turns{
		rdb: l.rdb,
		ttl: l.leases.ttl,
		hold: func() bool {
			fs.mu.Lock()
			defer fs.mu.Unlock()
			if !fs.closed {
				fs.running++
			}
			return !fs.closed
		},
		unhold: fs.landed,
		spawn:  fs.spawn,
		failed: func() { l.stats.redisFailures.Add(1) },
	}
}

// Run calls refresh once per key and period, in one of the processes that run it
// with these keys, until ctx ends. The first turn is due at once, and the later
// ones whole periods after it, whatever refreshing takes. every is whole
// milliseconds, the same in all of the fleet, at least MinPeriod. keys are those
// of the records, and differ.
//
// refresh is given indices of keys. It runs in a goroutine, at most Places of them
// at once, and must return soon after its ctx has ended. What it returns only
// matters then: an error gives the turns back. Otherwise they are used up, and the
// next try is in the next period. A call that hangs holds one place; other keys go
// on being refreshed in the others. A refresh that takes longer than a period
// costs those turns that were due meanwhile.
//
// One process watches a turn under way. It takes it over within the LeaseTTL if its
// process died, and within a third of that if it was given back. Where the watcher
// has died too, another process takes over when the next period begins, or one of
// the periods after it. At the latest after a minute, or two periods if that is
// longer, each process that is left has looked. A process that sleeps for so long
// loses its turn, and what it does is not stopped: that is for the lease in the
// entry, which knows what may be stored.
//
// Where Redis does not answer, nothing is refreshed: Run looks again a second
// later, or a period if that is shorter. If it is away until a turn under way has
// run out, that key may be refreshed once more in the same period.
//
// When ctx ends, Run ends the ctx of all calls of refresh, waits for them, gives
// their turns back, for which Redis has a second, and returns the cause. It always
// returns an error. Close of the Engine waits for Run, and does not end it.
func (t *Turns) Run(ctx context.Context, every time.Duration, keys []string, refresh func(ctx context.Context, due []int) error) error {
	if err := CheckPeriod(every); err != nil {
		return err
	}
	if !t.hold() {
		return ErrClosed
	}
	defer t.unhold()
	s := periodic.Scheduler{
		RDB: t.rdb, TTL: t.ttl, Every: every, Keys: keys,
		Work: refresh, Places: max(cmp.Or(t.Places, defaultPlaces), 1), Chunk: max(t.Chunk, 1),
		Spawn: t.spawn, Code: guard.Load, Failed: func(error) { t.failed() },
	}
	s.Run(ctx)
	return context.Cause(ctx)
}

// CheckPeriod returns an error if d cannot be a period: if it is not whole
// milliseconds, from MinPeriod to MaxPeriod.
func CheckPeriod(d time.Duration) error {
	switch {
	case d < MinPeriod:
		return fmt.Errorf("period of %v is too short, must be at least %v", d, MinPeriod)
	case d%time.Millisecond != 0:
		return fmt.Errorf("period of %v is not whole milliseconds", d)
	case d > MaxPeriod:
		return fmt.Errorf("period of %v is longer than ten years", d)
	}
	return nil
}
