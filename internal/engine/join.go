package engine

import (
	"context"

	"github.com/cachex-go/cachex/internal/waitfor"
)

// A waiter is one caller that waits for a flight.
type waiter struct {
	flight *flight       // guarded by group.mu: the flight it waits for
	left   bool          // guarded by group.mu
	link   *waitfor.Link // guarded by group.mu: nil unless the caller is itself a load that waits
	fresh  bool          // needs a load that begins after its call

	run func(*flight) // if fresh is set: runs a flight that loads
}

// join joins the flight of key, or starts one, which run must finish. If run is
// nil, join starts no flight. It then returns nil if there is no flight that a
// caller that has not read the key may join.
func (g *group) join(ctx context.Context, key string, run func(*flight)) (*waiter, error) {
	w, _, err := g.joinOrStart(ctx, key, false, run, nil)
	return w, err
}

// joinQueued joins the flight of one of many keys, like join with a nil run,
// but leaves a queued flight in the queue. If the flight is queued, it is
// returned too.
func (g *group) joinQueued(ctx context.Context, key string) (w *waiter, queued *flight, err error) {
	if err := g.admit(ctx, key); err != nil {
		return nil, nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.joinable[key]
	switch {
	case g.closed:
		return nil, nil, ErrClosed
	case f == nil || f.refreshOnly:
		return nil, nil, nil
	case f.queued:
		queued = f
	}
	return f.join(), queued, nil
}

// joinRefresh joins a flight, or starts one that callers that have not read the
// key must not join.
func (g *group) joinRefresh(ctx context.Context, key string, run func(*flight)) (*waiter, error) {
	w, _, err := g.joinOrStart(ctx, key, true, run, nil)
	return w, err
}

// joinOrStart is join, or joinRefresh if refreshOnly is set. It reports whether
// it started the flight. If callers that have not read the key may join the
// flight, and adopt is not nil, joinOrStart calls adopt under g.mu.
func (g *group) joinOrStart(ctx context.Context, key string, refreshOnly bool, run, adopt func(*flight)) (w *waiter, started bool, err error) {
	if err := g.admit(ctx, key); err != nil {
		return nil, false, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.joinable[key]
	switch {
	case g.closed:
		return nil, false, ErrClosed
	case f != nil && (run != nil || !f.refreshOnly):
	case run == nil:
		return nil, false, nil
	default:
		f, started = g.start(ctx, key, run), true
		f.refreshOnly = refreshOnly
	}
	f.runQueuedLocked(runShare{}) // a caller of one key does not queue behind many
	w = f.join()
	if adopt != nil && !f.refreshOnly {
		adopt(f)
	}
	return w, started, nil
}

// joinFresh joins a flight whose load has not begun, or starts one. Callers that
// come during such a load wait for its end and for the next load, which all of
// them share. So at most one such load at a time runs in this process.
func (g *group) joinFresh(ctx context.Context, key string, run func(*flight)) (*waiter, error) {
	if err := g.admit(ctx, key); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, ErrClosed
	}
	f := g.joinable[key]
	if f == nil || !f.fresh {
		f = g.start(ctx, key, run) // replaces a flight that began earlier
		f.refreshOnly, f.fresh = true, true
	}
	w := f.join()
	w.fresh, w.run = true, run
	return w, nil
}

// A joinMode is the purpose for which a caller joins the flights of several
// keys.
type joinMode uint8

const (
	joinRead       joinMode = iota // the caller needs the values
	joinRefresh                    // the caller refreshes values that readers may still use
	joinBackground                 // the caller does not wait, and leaves active flights alone
)

// startBackground starts a flight without waiters, unless the key has a flight.
func (g *group) startBackground(ctx context.Context, key string, run func(*flight)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed && g.joinable[key] == nil {
		f := g.start(backgroundCtx(ctx), key, run)
		f.refreshOnly, f.background = true, true
		f.waiting++
	}
}

// backgroundCtx returns ctx for a load without waiters. Such a load may ask for
// keys that are being loaded, so ctx loses its place in the graph of waits.
func backgroundCtx(ctx context.Context) context.Context {
	if waitfor.From(ctx) == nil {
		return ctx
	}
	return waitfor.With(ctx, nil)
}

// joinMany joins the flights of several keys. It starts the missing flights
// together. Before any of them starts, it calls together with their number and
// gets the function that runs them. The argument run returns the function that
// runs the i-th flight alone, should that become necessary. If queue is set,
// new flights wait until that function, or a caller that joins one of them,
// runs them. The argument queued of together lists the flights that were queued
// already. In errs is one error a key.
func (g *group) joinMany(ctx context.Context, keys []string, mode joinMode, queue bool, run func(i int) func(*flight), together func(n int, queued []*flight) func(fs []*flight, is []int)) (waiters []*waiter, errs []error) {
	waiters, errs = make([]*waiter, len(keys)), make([]error, len(keys))
	if mode != joinBackground {
		for i, key := range keys {
			errs[i] = g.admit(ctx, key)
		}
	}
	values := context.WithoutCancel(ctx)
	if mode == joinBackground {
		values = backgroundCtx(values)
	}
	var started, queued []*flight
	var is []int
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, key := range keys {
		f := g.joinable[key]
		switch {
		case errs[i] != nil:
			continue
		case g.closed:
			errs[i] = ErrClosed
			continue
		case f == nil:
			f = g.register(values, key, run(i))
			f.queued = queue
			started, is = append(started, f), append(is, i)
			if f.refreshOnly, f.background = mode != joinRead, mode == joinBackground; f.background {
				f.waiting++
			}
		case f.queued && mode != joinBackground:
			queued = append(queued, f)
		}
		if mode != joinBackground {
			waiters[i] = f.join()
		}
	}
	runAll := together(len(started), queued)
	if len(started) > 0 {
		g.runTogether(func() { runAll(started, is) }, started...)
	}
	return waiters, errs
}

// admit returns an error if the caller must not join a flight of key.
func (g *group) admit(ctx context.Context, key string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if load := waitfor.From(ctx); load != nil && load.Loads(g, key) {
		return ErrReentrant
	}
	return nil
}

// recordWait records that the caller waits, if ctx is the ctx of a load. The
// caller must hold group.mu.
func (w *waiter) recordWait(ctx context.Context) {
	if w.link == nil && !isClosed(w.flight.done) {
		w.link = waitfor.Await(ctx, &w.flight.node)
	}
}

// recordWaits is recordWait for several waiters, some of them nil, before the
// first wait.
func (g *group) recordWaits(ctx context.Context, members []*waiter) {
	if waitfor.From(ctx) == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, w := range members {
		if w != nil {
			w.recordWait(ctx)
		}
	}
}

// wait returns the result of the waiter's flight, or of a later one. The result
// must not be modified. If early is closed first, wait returns false, and the
// waiter has not left.
//
// A result holds a value, so wait returns a pointer. Waiters are many, and a
// new goroutine would have to grow its stack for a copy.
func (g *group) wait(ctx context.Context, w *waiter, early <-chan struct{}) (*result, bool) {
	g.mu.Lock()
	f := w.flight
	ended := isClosed(f.done)
	if !ended {
		w.recordWait(ctx)
	}
	link := w.link
	g.mu.Unlock()
	if link != nil {
		defer g.endWait(w)
	}
	if ended { // so for adopted waiters, who need neither the select nor its stack
		return &f.result, true
	}
	for {
		expired, deadlock := false, false
		select {
		case <-f.done:
		case <-ctx.Done():
		case <-early:
			expired = true
		case <-link.Broken():
			deadlock = true
		}
		g.mu.Lock()
		switch {
		case deadlock && !isClosed(w.flight.done):
			w.left = true
			w.flight.leave()
			g.mu.Unlock()
			return &result{err: ErrReentrant}, true
		case w.flight != f:
			f = w.flight // it came too late for the result of its first flight
		case isClosed(f.done):
			g.mu.Unlock()
			return &f.result, true
		}
		if ctx.Err() != nil && !isClosed(f.done) {
			w.left = true
			f.leave()
			g.mu.Unlock()
			return &result{err: context.Cause(ctx)}, true
		}
		g.mu.Unlock()
		if expired && !isClosed(f.done) {
			return nil, false
		}
	}
}

// endWait records that the waiter no longer waits.
func (g *group) endWait(w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	w.link.End()
	w.link = nil
}

// leaveRunning removes a waiter without cancelling the flight: it runs on, even
// without waiters.
func (g *group) leaveRunning(w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	w.left = true
	f := w.flight
	if isClosed(f.done) {
		return
	}
	if f.refreshOnly = true; f.background {
		f.leave()
	}
	f.background = true // the place of w keeps the flight running
}
