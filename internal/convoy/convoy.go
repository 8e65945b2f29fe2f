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

// A Convoy lets several parties on one client send together what each of them has
// to send: what one sends waits until every party has something to send too, or
// has left, and then all goes out in one pipeline. So parties that take the same
// steps, acquire, load, store, share the round trips of each.
//
// A party that loads would hold up the others. So who asks for leases waits for
// those alone who do not load, and who has loaded waits for the others no longer
// than it says: then it sends what has gathered. If it says as long as its own load
// took, nobody's load takes more than twice the time for it, and loads that take
// about as long share a round trip: the argument is that of the ski rental problem.
//
// Where a client tells its servers, each gets a pipeline of its own, and a party goes on
// when those that it has asked something of have answered.
//
// There is no goroutine but those of the parties, and one for each of several servers.
type Convoy struct {
	rdb redis.UniversalClient

	mu      sync.Mutex
	parties int       // guarded by mu: who may yet send
	loading int       // guarded by mu: of these, who load
	waiting []*parcel // guarded by mu
}

// A parcel is what one party sends.
type parcel struct {
	pieces   []*piece
	loaded   bool          // it waits for those who load, too
	deadline time.Time     // zero: none
	limit    time.Duration // how long its party waits for one round trip; 0: as long as it takes
	begins   func()        // tells its party that a round trip begins; nil if limit is 0
	start    guard.Spawn   // starts goroutines of its party
	turn     chan struct{} // closed when the party is to send what has gathered
	left     atomic.Int64  // pieces that have no replies yet
	done     chan struct{} // closed when left is 0
}

// A piece is those calls of a parcel that go to one server.
type piece struct {
	of       *parcel
	server   string
	calls    []*script.Call
	answered func() // called when the calls have their replies; nil
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

// over says that the calls have their replies.
func (p *piece) over() {
	if p.answered != nil {
		p.answered()
	}
	if p.of.left.Add(-1) == 0 {
		close(p.of.done)
	}
}

// New returns a Convoy of one party, who leaves when the others have joined.
func New(rdb redis.UniversalClient) *Convoy { return &Convoy{rdb: rdb, parties: 1} }

// Join takes one more party in.
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

// Load is for a party that begins to load, and Loaded for one that has.
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

// call has somebody send if nobody is waited for any more. The caller holds mu.
func (c *Convoy) call() {
	if len(c.waiting) == 0 || !c.complete() {
		return
	}
	select {
	case <-c.waiting[0].turn: // it was called before, and has not come yet
	default:
		close(c.waiting[0].turn)
	}
}

// complete reports whether one of those who wait need not wait any more. The caller
// holds mu.
func (c *Convoy) complete() bool {
	n := len(c.waiting)
	return n >= c.parties || n >= c.parties-c.loading && slices.ContainsFunc(c.waiting, func(p *parcel) bool { return !p.loaded })
}

// Send sends the calls of one party, and returns when they have their replies. It
// waits for the other parties no longer than patience; and for those who load if it
// has loaded itself. start starts a goroutine for each of several servers, so that the
// party need not wait for those that it has asked nothing of. If ctx ends before the calls
// are sent, they are not: whoever gives back a lease has to know that it is not asked for
// any more.
func (c *Convoy) Send(ctx context.Context, start guard.Spawn, calls []*script.Call, loaded bool, patience time.Duration) {
	own := &parcel{loaded: loaded, start: start}
	own.pieces = c.pieces(own, calls)
	c.sendParcel(ctx, own, patience)
}

// SendOrLeave is Send for a party that leaves as RunOrLeave does: when ctx is done, or d
// after a round trip began that was not answered, or if none began. What the others
// send may take any number of round trips.
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
	case at < 0: // somebody else sends ours
		c.mu.Unlock()
		<-own.done
		return
	case ctx.Err() != nil:
		c.waiting = slices.Delete(gathered, at, at+1)
		c.call() // it may have been for us to send
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
	c.send(ctx, own, append(slices.Delete(gathered, at, at+1), own)) // ours are the last, since we go on when all are sent
	<-own.done
}

// send sends what has gathered, for each server by itself and side by side. own is the
// parcel of the party that sends. If there are several servers, send does not wait for
// them.
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

// sendLane sends pieces to their server, and lets each party go on when its own calls have
// their replies: it has leases to renew. That whoever sends may leave, on its own ctx, is no
// matter to the others: the longest of their deadlines counts, and for each round trip
// the longest of their limits.
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
	ends := make([]int, len(lane)) // where in calls those of each piece end
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
		call.Err = ErrSilent // should a hook of the client panic
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

// Run runs scripts, in one round trip for each of their lots. Every call has its own reply
// and error.
func Run(ctx context.Context, rdb redis.UniversalClient, calls []*script.Call) {
	for some := range script.CallLots(calls, Most) {
		if len(some) == 1 {
			_ = some[0].Run(ctx, rdb) // the error is in the call
		} else {
			_ = script.Pipeline(ctx, rdb, some) // likewise
		}
	}
}
