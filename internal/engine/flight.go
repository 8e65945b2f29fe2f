package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/waitfor"
)

// A flight is one load and the callers that wait for it.
//
// Its result may be older than the arrival of its last waiter: a deletion can
// have come in between, even in another process. So a flight answers only the
// first waiters, as many as finish is told: those that had joined at the last
// proof that the key was untouched. The other waiters join one more flight
// together, before its load starts.
//
// Fields marked "mu" are guarded by group.mu.
type flight struct {
	group  *group
	key    string
	run    func(*flight)           // runs a flight of this key; calls finish once
	values context.Context         // the values of the first caller's ctx
	shared *sharedCtx              // mu: the ctx shared with flights in the same goroutine
	ctx    context.Context         // of this flight, or of all flights that run together
	cancel context.CancelCauseFunc // mu: the caller must hold it
	done   chan struct{}           // closed by finish
	node   waitfor.Flight          // its node in the graph of waits
	share  runShare                // mu until it runs: what its run shares with others

	waiters        []*waiter       // mu: in the order in which they joined
	alsoWake       []chan struct{} // mu: closed by finish, for waiters on these channels
	waiting        int             // mu: waiters that have not left, plus 1 if background is set
	waitersAtStart int             // mu: the number of waiters when the load began
	cancelledBy    error           // mu: the cause of the cancellation; nil if not cancelled

	// queued, guarded by mu: the flight waits for a place among the keys of a
	// GetMany, or for a caller that runs it at once.
	queued bool

	// refreshOnly, guarded by mu: callers that have not read the key must not
	// join, since the key may have a value.
	refreshOnly bool

	// background, guarded by mu: the flight runs on without waiters.
	background bool

	// fresh, guarded by mu: the flight is for callers that need a load that
	// begins after they came.
	fresh bool

	result result // written by finish before it closes done
}

// A result is the result of a flight.
type result struct {
	v            any // a pointer to the value; nil if there is no value
	err          error
	outcome      Outcome
	servedStale  bool // v is the earlier value: err is the reason why no newer one can be had
	notAttempted bool // nothing was loaded or found
}

// start starts a flight. The caller must hold g.mu, and must join the flight.
func (g *group) start(ctx context.Context, key string, run func(*flight)) *flight {
	f := g.register(context.WithoutCancel(ctx), key, run)
	g.runTogether(func() { run(f) }, f)
	return f
}

// register returns a new flight that callers may join. The caller must hold
// g.mu.
func (g *group) register(values context.Context, key string, run func(*flight)) *flight {
	f := &flight{group: g, key: key, run: run, values: values, done: make(chan struct{})}
	if g.joinable == nil {
		g.joinable, g.active = make(map[string]*flight), make(map[*flight]struct{})
	}
	g.joinable[key] = f
	g.active[f] = struct{}{}
	g.anyActive.Store(true)
	return f
}

// runTogether calls run in a goroutine, for flights that share a ctx. The ctx
// ends when the last of these flights is cancelled. The caller must hold g.mu.
func (g *group) runTogether(run func(), flights ...*flight) {
	legs := make([]waitfor.Leg, len(flights))
	for i, f := range flights {
		legs[i] = waitfor.Leg{Key: f.key, Done: f.done}
	}
	load := waitfor.New(flights[0].values, g, legs...)
	ctx, end := context.WithCancelCause(waitfor.With(flights[0].values, load))
	shared := &sharedCtx{flights: len(flights), end: end}
	if g.timeout > 0 {
		late := fmt.Errorf("load took longer than %v: %w", g.timeout, context.DeadlineExceeded)
		ctx, shared.stop = context.WithTimeoutCause(ctx, g.timeout, late)
	}
	for _, f := range flights {
		over := false
		f.node.By(load)
		f.ctx, f.cancel = ctx, func(cause error) {
			if !over {
				over, f.cancelledBy = true, cause
				shared.release(cause)
			}
		}
	}
	for _, f := range flights {
		f.shared = shared
	}
	g.goroutines++
	// Ends with run, which obeys the ctx.
	guard.Go(guard.Load, func() error { run(); return nil }, func(err error) {
		defer g.exit()
		for _, f := range flights {
			if err != nil {
				f.crash(shared, err)
			}
		}
	})
}

// A sharedCtx is the ctx of several flights. It ends with the last of them.
type sharedCtx struct {
	flights int // guarded by group.mu: those that have not ended
	end     context.CancelCauseFunc
	stop    context.CancelFunc // nil without a timeout
}

func (s *sharedCtx) release(cause error) {
	if s.flights--; s.flights > 0 {
		return
	}
	s.end(cause)
	if s.stop != nil {
		s.stop()
	}
}

// runApart gives some of several flights a ctx of their own, and runs them in
// another goroutine. Flights that were cancelled stay cancelled.
func (g *group) runApart(run func(), flights ...*flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.runApartLocked(run, flights...)
}

// runApartLocked is like runApart, but the caller must hold g.mu.
func (g *group) runApartLocked(run func(), flights ...*flight) {
	cancels, causes := make([]context.CancelCauseFunc, len(flights)), make([]error, len(flights))
	for i, f := range flights {
		cancels[i], causes[i] = f.cancel, f.cancelledBy
	}
	g.runTogether(run, flights...)
	for i, f := range flights {
		cancels[i](nil)
		switch {
		case causes[i] != nil:
			f.cancel(causes[i])
		case f.waiting == 0:
			f.cancel(errAbandoned)
		}
	}
}

// crash ends a flight for all waiters if its goroutine, the one of shared, did
// not return: a codec or a hook of the client panicked there, or called
// runtime.Goexit.
func (f *flight) crash(shared *sharedCtx, err error) {
	f.group.mu.Lock()
	running := f.shared == shared && !isClosed(f.done)
	n := len(f.waiters)
	f.group.mu.Unlock()
	if running {
		f.finish(result{err: err}, n)
	}
}

// runQueuedLocked runs a queued flight in a goroutine of its own. It returns
// false if the flight is not queued. The caller must hold group.mu.
func (f *flight) runQueuedLocked(share runShare) bool {
	if !f.queued {
		return false
	}
	f.queued, f.share = false, share
	f.group.runApartLocked(func() { f.run(f) }, f)
	return true
}

// runQueued is like runQueuedLocked, but locks group.mu.
func (f *flight) runQueued(share runShare) bool {
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	return f.runQueuedLocked(share)
}

// join adds a waiter. The caller must hold group.mu.
func (f *flight) join() *waiter {
	w := new(waiter)
	f.addWaiter(w)
	return w
}

func (f *flight) addWaiter(w *waiter) {
	w.flight = f
	f.waiters = append(f.waiters, w)
	f.waiting++
}

// leave removes a waiter, and cancels the flight if it was the last one. The
// caller must hold group.mu.
func (f *flight) leave() {
	f.waiting--
	if f.waiting == 0 {
		f.detach()
		f.cancel(errAbandoned)
	}
}

// detach makes the flight impossible to join. The caller must hold group.mu.
func (f *flight) detach() {
	if f.group.joinable[f.key] == f {
		delete(f.group.joinable, f.key)
	}
}

// isClosed reports whether done is closed.
func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// hasNoWaiters reports whether the flight runs in the background only.
func (f *flight) hasNoWaiters() bool {
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	return f.background && f.waiting == 1
}

// waiterCount returns the number of waiters so far. If the next command proves
// the key untouched, these waiters are entitled to the result.
func (f *flight) waiterCount() int {
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	return len(f.waiters)
}

// recordWaiters sets waitersAtSend of each key, all at one moment.
func (g *group) recordWaiters(ps []*keyLoad) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range ps {
		p.waitersAtSend = len(p.flight.waiters)
	}
}

// waiterCounts is like recordWaiters, but returns the counts, for callers that
// must not write to ps.
func (g *group) waiterCounts(ps []*keyLoad) []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	counts := make([]int, len(ps))
	for i, p := range ps {
		counts[i] = len(p.flight.waiters)
	}
	return counts
}

// recordStart records that the load of ps begins. Without a lease no later
// command can prove the key untouched, so later waiters are not entitled.
func (g *group) recordStart(ps []*keyLoad) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range ps {
		p.flight.waitersAtStart = len(p.flight.waiters)
		if p.unleased {
			p.entitled = p.flight.waitersAtStart
		}
	}
}

// detachLost detaches a flight whose lease is lost.
func (f *flight) detachLost() {
	f.group.mu.Lock()
	defer f.group.mu.Unlock()
	f.detach()
}

// finish gives r to the first n waiters. The other waiters that have not left
// join a flight of their own, or the one that replaced this flight after it was
// detached. A waiter that needs a later load is among the others.
func (f *flight) finish(r result, n int) {
	g := f.group
	g.mu.Lock()
	defer g.mu.Unlock()
	f.detach()
	delete(g.active, f)
	g.anyActive.Store(len(g.active) > 0)
	var late []*waiter
	for i, w := range f.waiters {
		if !w.left && (i >= n || w.fresh && i >= f.waitersAtStart) {
			late = append(late, w)
		}
	}
	f.waiters = nil
	f.result = r
	if len(late) > 0 {
		f.requeueLate(late)
		for _, w := range late {
			w.link.Move(&w.flight.node)
		}
	}
	close(f.done)
	for _, ch := range f.alsoWake {
		close(ch)
	}
	f.alsoWake = nil
	f.cancel(nil)
}

// requeueLate moves waiters to another flight. The caller must hold group.mu.
//
// A waiter that needs a load that begins after its call must not join a flight
// of readers. Such a flight may find a value and load nothing, again and again.
func (f *flight) requeueLate(late []*waiter) {
	g := f.group
	next := g.joinable[f.key]
	if g.closed {
		next = &flight{group: g, result: result{err: ErrClosed}, done: f.done}
	}
	if next != nil {
		next.runQueuedLocked(runShare{})
	}
	freshFlight := next
	for _, w := range late {
		if w.fresh && !g.closed && (freshFlight == nil || !freshFlight.fresh) {
			freshFlight = g.start(f.values, f.key, w.run)
			freshFlight.refreshOnly, freshFlight.fresh = true, true
		}
	}
	if next == nil {
		next = freshFlight
	}
	if next == nil {
		next = g.start(f.values, f.key, f.run)
		next.refreshOnly, next.fresh = f.fresh, f.fresh
	}
	for _, w := range late {
		if w.fresh {
			freshFlight.addWaiter(w)
		} else {
			next.addWaiter(w)
		}
	}
}

// withCause replaces the bare error of ctx by the cause of its end.
func withCause(ctx context.Context, err error) error {
	if end := ctx.Err(); end != nil && err == end {
		return context.Cause(ctx)
	}
	return err
}

var errAbandoned = errors.New("every caller has left")
