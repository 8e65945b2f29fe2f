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

// Periodic calls a function for each of many keys once in every period, in one
// process of the fleet.
//
// The turn of a key is a record in Redis, in a key of its own. The process that
// takes it does the work, extends it by a heartbeat meanwhile, and reports its
// end. That process looks first in the next period, so a key stays with its
// process as long as the process keeps up. Of the other processes, one looks in
// each period, a little later, and takes the turn over if its process has died.
//
// Turns are for efficiency, as leases are: if a record is lost, the work is
// done once more. Make a Periodic with Engine.Periodic.
type Periodic struct {
	// Places is how many calls of refresh run at once. Defaults to 16.
	Places int

	// Chunk is the largest number of keys in one call of refresh. Defaults to
	// 1.
	Chunk int

	rdb redis.UniversalClient
	ttl time.Duration
	// enter returns true if the Engine is open, and then keeps its Close
	// waiting until exit.
	enter  func() bool
	exit   func()
	spawn  guard.Spawn // in a goroutine that Close waits for
	failed func()      // counts a round trip that failed
}

// The shortest and the longest period.
const (
	MinPeriod = 100 * time.Millisecond
	MaxPeriod = maxLifetime

	defaultPlaces = 16
)

// Periodic returns a Periodic whose turns hold for the LeaseTTL of l. Stats of
// l count its failures. It makes no call to Redis.
func (l *Engine) Periodic() *Periodic {
	g := &l.flights
	return &Periodic{
		rdb: l.rdb,
		ttl: l.leases.ttl,
		enter: func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			if !g.closed {
				g.goroutines++
			}
			return !g.closed
		},
		exit:   g.exit,
		spawn:  g.goHeld,
		failed: func() { l.stats.redisFailures.Add(1) },
	}
}

// Run calls refresh once per key and period, in one of the processes that run
// it with these keys, until ctx ends. The first turn is due at once. Later
// turns are due whole periods after it, however long a refresh takes. The
// period every is whole milliseconds, at least MinPeriod, and the same in all
// of the fleet. The keys of the records are keys, which must differ.
//
// refresh gets indices of keys. It runs in a goroutine, at most Places of them
// at once, and must return soon after its ctx has ended. Only then does its
// error matter: an error gives the turns back. Otherwise the turns are used up,
// and the next try is in the next period. A call that hangs holds one place;
// other keys use the others. A refresh that takes longer than a period costs
// the turns that were due during it.
//
// One process watches an active turn. It takes the turn over within the
// LeaseTTL if its process died, and within a third of that if the turn was
// given back. If the watcher has died too, another process takes over when the
// next period begins, or one of the periods after it. Each remaining process
// has looked after at most a minute, or two periods if that is longer. A
// process that sleeps for so long loses its turn, but its work is not stopped:
// the lease in the entry decides what may be stored.
//
// If Redis does not answer, nothing is refreshed: Run looks again a second
// later, or a period later if that is shorter. If Redis stays silent until an
// active turn has run out, that key may be refreshed once more in the same
// period.
//
// When ctx ends, Run ends the ctx of all calls of refresh, and waits for them.
// It then gives their turns back, for which Redis has a second, and returns the
// cause. It always returns an error. Close of the Engine waits for Run, and
// does not end it.
func (t *Periodic) Run(ctx context.Context, every time.Duration, keys []string, refresh func(ctx context.Context, due []int) error) error {
	if err := CheckPeriod(every); err != nil {
		return err
	}
	if !t.enter() {
		return ErrClosed
	}
	defer t.exit()
	s := periodic.Scheduler{
		RDB: t.rdb, TTL: t.ttl, Every: every, Keys: keys,
		Work: refresh, Places: max(cmp.Or(t.Places, defaultPlaces), 1), Chunk: max(t.Chunk, 1),
		Spawn: t.spawn, Code: guard.Load, Failed: func(error) { t.failed() },
	}
	s.Run(ctx)
	return context.Cause(ctx)
}

// CheckPeriod returns an error if d is not a valid period: whole milliseconds
// from MinPeriod to MaxPeriod.
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
