package convoy

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// Convoy lets several parties on one client send their calls together. The
// calls of one party wait until every other party has calls too, or has left.
// Then one pipeline sends them all. So parties that take the same steps
// (acquire, load, store) share the round trips of each step.
//
// A party that loads would delay the others. So a party that asks for leases
// waits only for parties that do not load. A party that has loaded waits for
// the others at most as long as it says, and then sends the gathered calls. If
// it says as long as its own load took, it at most doubles the time of any
// load. Loads of about the same length then share a round trip. This is the
// argument of the ski rental problem.
//
// If the client tells its servers, each server gets a pipeline of its own. A
// party goes on when the servers that it has asked have answered.
//
// A Convoy has no goroutines except the goroutines of its parties, and one for
// each server if there are several.
type Convoy struct {
	rdb redis.UniversalClient

	mu      sync.Mutex
	parties int       // guarded by mu: parties that may yet send
	loading int       // guarded by mu: parties that load
	waiting []*parcel // guarded by mu
}

// parcel is the set of calls that one party sends.
type parcel struct {
	pieces   []*piece
	loaded   bool          // it also waits for parties that load
	deadline time.Time     // zero if there is none
	limit    time.Duration // how long its party waits for one round trip; 0 for as long as it takes
	begins   func()        // tells its party that a round trip begins; nil if limit is 0
	start    guard.Spawn   // starts goroutines of its party
	turn     chan struct{} // closed when the party has to send the gathered calls
	left     atomic.Int64  // pieces without replies
	done     chan struct{} // closed when left is 0
}

// piece holds the calls of a parcel that go to one server.
type piece struct {
	of       *parcel
	server   string
	calls    []*script.Call
	answered func() // called when the calls have their replies; may be nil
}

// pieces returns a piece of p for each server of calls, in their order.
func (c *Convoy) pieces(p *parcel, calls []*script.Call) (all []*piece) {
	f := fanOut(c.rdb, len(calls), func(i int) string { return calls[i].Key })
	if f.single() {
		server := client.Unknown
		if name := client.Servers(c.rdb); name != nil && len(calls) > 0 {
			server = name(calls[0].Key)
		}
		return []*piece{{of: p, server: server, calls: calls}}
	}
	for part, server := range f.servers {
		all = append(all, &piece{of: p, server: server, calls: of(f, part, calls)})
	}
	return all
}

// over records that the calls have their replies.
func (p *piece) over() {
	if p.answered != nil {
		p.answered()
	}
	if p.of.left.Add(-1) == 0 {
		close(p.of.done)
	}
}

// New returns a Convoy of one party, which leaves when the others have joined.
func New(rdb redis.UniversalClient) *Convoy { return &Convoy{rdb: rdb, parties: 1} }

// Join adds one more party.
func (c *Convoy) Join() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parties++
}

// Leave is for a party that has nothing more to send.
func (c *Convoy) Leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parties--
	c.call()
}

// Load is for a party that begins to load. Loaded is for a party that has
// loaded.
func (c *Convoy) Load() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loading++
	c.call()
}

// Loaded ends Load.
func (c *Convoy) Loaded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loading--
}

// call has a waiting party send if no further party has to be waited for. The
// caller holds mu.
func (c *Convoy) call() {
	if len(c.waiting) == 0 || !c.complete() {
		return
	}
	select {
	case <-c.waiting[0].turn: // it was called before and has not come yet
	default:
		close(c.waiting[0].turn)
	}
}

// complete reports whether one of the waiting parties need not wait any more.
// The caller holds mu.
func (c *Convoy) complete() bool {
	n := len(c.waiting)
	return n >= c.parties || n >= c.parties-c.loading && slices.ContainsFunc(c.waiting, func(p *parcel) bool { return !p.loaded })
}

// Send sends the calls of one party, and returns when they have their replies.
// It waits for the other parties at most for patience. If the party has loaded,
// it also waits for parties that load. start starts a goroutine for each of
// several servers, so that the party need not wait for servers that it has not
// asked. If ctx ends before the calls are sent, they are not sent. A party that
// gives back a lease must know that no call still asks for it.
func (c *Convoy) Send(ctx context.Context, start guard.Spawn, calls []*script.Call, loaded bool, patience time.Duration) {
	own := &parcel{loaded: loaded, start: start}
	own.pieces = c.pieces(own, calls)
	c.sendParcel(ctx, own, patience)
}

// SendOrLeave is Send for a party that leaves as RunOrLeave does: when ctx is
// done, or when a round trip has no answer after d. It also leaves if no round
// trip begins within d. The calls of the other parties may take any number of
// round trips.
func (c *Convoy) SendOrLeave(ctx context.Context, d time.Duration, start guard.Spawn, calls []*script.Call, loaded bool, patience time.Duration) {
	copies := copied(ctx, c.rdb, calls)
	own := &parcel{loaded: loaded, start: start}
	own.pieces = c.pieces(own, copies)
	took(calls, copies, leave(ctx, d, start, func(ctx context.Context, begins func()) {
		if begins != nil {
			own.limit, own.begins = d, begins
		}
		c.sendParcel(ctx, own, patience)
	}))
}

func (c *Convoy) sendParcel(ctx context.Context, own *parcel, patience time.Duration) {
	own.turn, own.done = make(chan struct{}), make(chan struct{})
	own.left.Store(int64(len(own.pieces)))
	own.deadline, _ = ctx.Deadline()
	c.mu.Lock()
	c.waiting = append(c.waiting, own)
	complete := c.complete()
	c.mu.Unlock()
	if !complete {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-own.done:
			return
		case <-own.turn:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	gathered := c.waiting
	at := slices.Index(gathered, own)
	switch {
	case at < 0: // another party sends ours
		c.mu.Unlock()
		<-own.done
		return
	case ctx.Err() != nil:
		c.waiting = slices.Delete(gathered, at, at+1)
		c.call() // it may have been our turn to send
		c.mu.Unlock()
		for _, some := range own.pieces {
			for _, call := range some.calls {
				call.Err = context.Cause(ctx)
			}
		}
		return
	}
	c.waiting = nil
	c.mu.Unlock()
	c.send(ctx, own, append(slices.Delete(gathered, at, at+1), own)) // ours are the last, because we go on when all are sent
	<-own.done
}

// send sends the gathered pieces, for each server separately and concurrently.
// own is the parcel of the party that sends. If there are several servers, send
// does not wait for them.
func (c *Convoy) send(ctx context.Context, own *parcel, gathered []*parcel) {
	var lanes [][]*piece
	index := make(map[string]int)
	for _, p := range gathered {
		for _, some := range p.pieces {
			at, there := index[some.server]
			if !there {
				at = len(lanes)
				index[some.server], lanes = at, append(lanes, nil)
			}
			lanes[at] = append(lanes[at], some)
		}
	}
	if len(lanes) == 1 {
		c.sendLane(ctx, lanes[0])
		return
	}
	for _, lane := range lanes {
		own.start(guard.Client, func() error { c.sendLane(ctx, lane); return nil }, func(error) {}) // ends with the replies
	}
}

// sendLane sends pieces to their server. Each party goes on when its own calls
// have their replies, because it has leases to renew. The sending party may
// leave on its own ctx without effect on the others. The longest of their
// deadlines counts, and for each round trip the longest of their limits.
func (c *Convoy) sendLane(ctx context.Context, lane []*piece) {
	waiting := lane
	defer func() {
		for _, p := range waiting {
			p.over()
		}
	}()
	var calls []*script.Call
	var last time.Time
	var limit time.Duration
	bounded, limited := true, true
	ends := make([]int, len(lane)) // the end of each piece in calls
	for i, p := range lane {
		calls = append(calls, script.Shared(slices.Clone(p.calls))...)
		ends[i] = len(calls)
		bounded, limited = bounded && !p.of.deadline.IsZero(), limited && p.of.limit > 0
		limit = max(limit, p.of.limit)
		if p.of.deadline.After(last) {
			last = p.of.deadline
		}
	}
	for _, call := range calls {
		call.Err = ErrSilent // in case a hook of the client panics
	}
	ctx = context.WithoutCancel(ctx)
	if bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, last)
		defer cancel()
	}
	sent := 0
	for some := range script.CallLots(calls, Most) {
		for _, p := range waiting {
			if p.of.begins != nil {
				p.of.begins()
			}
		}
		trip, cancel := ctx, context.CancelFunc(func() {})
		if limited {
			trip, cancel = context.WithTimeoutCause(ctx, limit, ErrSilent)
		}
		Run(trip, c.rdb, some)
		silent := limited && trip.Err() != nil
		cancel()
		if silent {
			return // all have left
		}
		for sent += len(some); len(waiting) > 0 && ends[len(lane)-len(waiting)] <= sent; {
			waiting[0].over()
			waiting = waiting[1:]
		}
	}
}

// Run runs scripts, in one round trip for each of their lots. Every call has
// its own reply and error.
func Run(ctx context.Context, rdb redis.UniversalClient, calls []*script.Call) {
	for some := range script.CallLots(calls, Most) {
		if len(some) == 1 {
			_ = some[0].Run(ctx, rdb) // the call has the error
		} else {
			_ = script.Pipeline(ctx, rdb, some) // the calls have the errors
		}
	}
}
