// Package periodic runs work once in every period in one process of the fleet,
// for each of many keys.
//
// The turn of a key is a record in Redis, under its own key. The process that
// takes it does the work, keeps the turn by a heartbeat meanwhile, and reports
// the end. That process looks first in the next period, so a key stays with its
// process as long as the process keeps up.
//
// The other processes queue: the record holds the period for which the last of
// them was told to look. So in each period one of them looks, shortly after the
// turn was due, and takes it over if its process has died. It watches a running
// turn until its end. A process looks at least once in longestWait or in two
// periods, so that a fleet whose processes have mostly died does not wait for
// the whole queue.
//
// Turns are for efficiency, like leases: if a record is lost, the work is done
// once more.
package periodic

import (
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// Scheduler does the work of the turns that this process gets.
type Scheduler struct {
	RDB redis.UniversalClient

	// TTL is the time after which the turn of a process that died during its
	// work is taken over.
	TTL time.Duration

	// Every is the period, equal in all of the fleet, in whole milliseconds.
	Every time.Duration

	// Keys are the Redis keys of the records. They must differ.
	Keys []string

	// Work gets indices of Keys, at most Chunk of them. At most Places calls
	// run at once. It must return soon after its ctx has ended. If it returns a
	// *GiveBack, or an error after its ctx has ended, its turns are given back.
	// Otherwise they are used up.
	Work          func(ctx context.Context, due []int) error
	Places, Chunk int

	// First delays the first look: it comes after First and before twice First,
	// at random.
	First time.Duration

	// Anyway makes Work run if Redis fails to say whose turn it is.
	Anyway bool

	// Nudge lets others ask for a look in the next period. It may be nil.
	Nudge *Nudge

	// Spawn starts goroutines that Close of the owner waits for.
	Spawn guard.Spawn

	// Code names Work in the errors of a panic.
	Code guard.Code

	// Failed is called with the errors of failed round trips.
	Failed func(error)
}

// GiveBack is the error of work that another process should do.
type GiveBack struct {
	For time.Duration // how long this process does not ask for the turn
	Err error         // the reason, or nil
}

// Error returns the reason.
func (g *GiveBack) Error() string { return fmt.Sprintf("the turn is given back: %v", g.Err) }

// Unwrap returns Err.
func (g *GiveBack) Unwrap() error { return g.Err }

// Nudge makes a [Scheduler] look at all turns in the next period, whatever its
// places in the queues. It is safe for concurrent use. NewNudge makes one.
type Nudge struct {
	due atomic.Bool // a look is pending, which serves later nudges too
	ch  chan struct{}
}

// NewNudge returns a Nudge for one Scheduler.
func NewNudge() *Nudge { return &Nudge{ch: make(chan struct{}, 1)} }

// Now asks for a look. While one is pending, it is one atomic load.
func (n *Nudge) Now() {
	if n.due.Load() || n.due.Swap(true) {
		return
	}
	select {
	case n.ch <- struct{}{}:
	default:
	}
}

// wait returns the channel of nudges.
func (n *Nudge) wait() <-chan struct{} {
	if n == nil {
		return nil
	}
	return n.ch
}

// pending reports whether a look is pending.
func (n *Nudge) pending() bool { return n != nil && n.due.Load() }

// looked records that a look begins: a later nudge asks for another one.
func (n *Nudge) looked() {
	if n != nil {
		n.due.Store(false)
	}
}

const (
	maxTake     = 512         // turns that one round trip asks for
	patience    = time.Second // for Redis, and for the end of Run
	longestWait = time.Minute // between two looks of a process at a turn
)

// Run does the work of the turns until ctx ends. It then ends the ctx of all
// work, waits for it, and gives the turns back, which may take Redis a second.
func (s *Scheduler) Run(ctx context.Context) {
	longest := (longestWait + s.Every - 1) / s.Every
	r := &run{
		Scheduler: s,
		work:      ctx, settled: context.WithoutCancel(ctx),
		away:    min(s.Every, time.Second),
		lease:   s.TTL - (s.TTL / 10).Truncate(time.Millisecond),
		longest: int(min(max(longest, 2), script.MaxTurnQueue)),
		held:    make(map[*turn]struct{}),
		free:    s.Places,
		took:    make(chan trip, 1),
		told:    make(chan trip, 1),
		beats:   make(chan trip, 1),
		ended:   make(chan done, s.Places),
	}
	// The order is random, so that processes that start together do not ask for
	// the same keys.
	now := time.Now()
	for _, i := range rand.Perm(len(s.Keys)) {
		r.due = append(r.due, &turn{i: i, key: s.Keys[i], at: now.Add(s.First + rand.N(s.First+1))})
	}
	heap.Init(&r.due)
	r.loop()
}

// turn is the part of this process in the turns of one key.
type turn struct {
	i     int
	key   string
	at    time.Time // when to look
	token entry.Token
	back  bool          // it must be given back, not ended
	pause time.Duration // the time before this process asks again for a turn that it gives back

	begins  time.Time // the start of some period; zero if unknown
	watched bool      // this process was told to watch the turn of another one
	place   time.Time // the place in the queue that a nudge has brought forward
}

// nudged moves the next look forward to the start of the next period, and keeps
// the place in the queue.
func (t *turn) nudged(every time.Duration, late time.Duration) bool {
	if t.begins.IsZero() {
		return false // it looks as soon as it can, or has the turn
	}
	now := time.Now()
	next := t.begins.Add(-t.begins.Sub(now) / every * every) // rounds to zero
	if next.Before(now) {
		next = next.Add(every)
	}
	if next = next.Add(late); !next.Before(t.at) {
		return false
	}
	t.place, t.at = t.at, next
	return true
}

// keeps reports whether the turn has a future place in the queue.
func (t *turn) keeps() bool { return t.place.After(time.Now()) }

// bits returns the last argument of TakeTurn.
func (t *turn) bits() (bits int) {
	if t.watched {
		bits |= script.TurnWatched
	}
	if t.keeps() {
		bits |= script.TurnKept
	}
	return bits
}
