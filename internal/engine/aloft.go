package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/waitfor"
)

// A flight is one load and those who wait for it.
//
// What it finds may be older than its youngest member: a deletion, in another
// process even, can have come between. So a flight answers the members who had
// joined when it was last proven that nothing had come between, as many as its
// finish says. The others board one more flight, together and before it starts.
type flight struct {
	fs     *group
	key    string
	run    func(*flight)           // flies a flight of this key; calls finish, once
	values context.Context         // those of the first caller
	crew   *party                  // guarded by fs.mu: the flights in whose goroutine it is flown
	ctx    context.Context         // of the flight, or of all that are flown together
	cancel context.CancelCauseFunc // called under fs.mu
	ended  error                   // guarded by fs.mu: why it is cancelled; nil if it is not
	done   chan struct{}           // closed by finish
	node   waitfor.Flight          // of the graph of waits
	with   company                 // guarded by fs.mu until it is flown: of its run
	queued bool                    // guarded by fs.mu: it waits for a place among many, for whoever has one to fly it

	members []*member       // guarded by fs.mu: in the order in which they joined
	waking  []chan struct{} // guarded by fs.mu: closed by finish, for members who wait for these
	waiting int             // guarded by fs.mu: members who have not left, and one more if it is steady
	begun   int             // guarded by fs.mu: how many had joined when the load began
	aside   bool            // guarded by fs.mu: whoever has not read the key does not join: it may have a value
	steady  bool            // guarded by fs.mu: it flies on though nobody waits, which counts as one who waits
	anew    bool            // guarded by fs.mu: for those who want a load that begins after they came

	r result // written by finish before it closes done
}

// A result is what a flight found.
type result struct {
	v    any // a pointer to the value, nil if there is none
	err  error
	how  Outcome
	kept bool // v is what was there before: nothing newer can be had, for the reason err
	vain bool // nothing was loaded here, nor found
}

// launch starts a flight. The caller holds fs.mu, and boards it.
func (fs *group) launch(ctx context.Context, key string, run func(*flight)) *flight {
	f := fs.register(context.WithoutCancel(ctx), key, run)
	fs.fly(func() { run(f) }, f)
	return f
}

// register makes a flight that may be joined. The caller holds fs.mu.
func (fs *group) register(values context.Context, key string, run func(*flight)) *flight {
	f := &flight{fs: fs, key: key, run: run, values: values, done: make(chan struct{})}
	if fs.m == nil {
		fs.m, fs.aloft = make(map[string]*flight), make(map[*flight]struct{})
	}
	fs.m[key] = f
	fs.aloft[f] = struct{}{}
	fs.some.Store(true)
	return f
}

// fly calls run in a goroutine, for flights that share a ctx: it ends when the
// last of them is cancelled. The caller holds fs.mu.
func (fs *group) fly(run func(), flights ...*flight) {
	legs := make([]waitfor.Leg, len(flights))
	for i, f := range flights {
		legs[i] = waitfor.Leg{Key: f.key, Done: f.done}
	}
	load := waitfor.New(flights[0].values, fs, legs...)
	ctx, end := context.WithCancelCause(waitfor.With(flights[0].values, load))
	together := &party{left: len(flights), end: end}
	if fs.timeout > 0 {
		late := fmt.Errorf("load took longer than %v: %w", fs.timeout, context.DeadlineExceeded)
		ctx, together.stop = context.WithTimeoutCause(ctx, fs.timeout, late)
	}
	for _, f := range flights {
		over := false
		f.node.By(load)
		f.ctx, f.cancel = ctx, func(cause error) {
			if !over {
				over, f.ended = true, cause
				together.leave(cause)
			}
		}
	}
	for _, f := range flights {
		f.crew = together
	}
	fs.running++
	// Ends with run, which heeds the ctx.
	guard.Go(guard.Load, func() error { run(); return nil }, func(err error) {
		defer fs.landed()
		for _, f := range flights {
			if err != nil {
				f.crash(together, err)
			}
		}
	})
}

// A party is the flights that share a ctx. It ends with the last of them.
type party struct {
	left int // guarded by fs.mu
	end  context.CancelCauseFunc
	stop context.CancelFunc // nil: without a timeout
}

func (p *party) leave(cause error) {
	if p.left--; p.left > 0 {
		return
	}
	p.end(cause)
	if p.stop != nil {
		p.stop()
	}
}

// part gives some of several flights a ctx of their own, and flies them apart from the
// others. If one was cancelled, it is so still.
func (fs *group) part(run func(), flights ...*flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.secede(run, flights...)
}

// secede is part. The caller holds fs.mu.
func (fs *group) secede(run func(), flights ...*flight) {
	together, ended := make([]context.CancelCauseFunc, len(flights)), make([]error, len(flights))
	for i, f := range flights {
		together[i], ended[i] = f.cancel, f.ended
	}
	fs.fly(run, flights...)
	for i, f := range flights {
		together[i](nil)
		switch {
		case ended[i] != nil:
			f.cancel(ended[i])
		case f.waiting == 0:
			f.cancel(errAbandoned)
		}
	}
}

// crash ends a flight for all its members if the goroutine that flew it with those
// of crew did not return: a codec or a hook of the client panicked there, or called
// runtime.Goexit.
func (f *flight) crash(crew *party, err error) {
	f.fs.mu.Lock()
	flown := f.crew == crew && !over(f.done)
	n := len(f.members)
	f.fs.mu.Unlock()
	if flown {
		f.finish(result{err: err}, n)
	}
}

// claim flies a flight that is queued, by itself, and reports whether it was. The
// caller holds fs.mu.
func (f *flight) claim(with company) bool {
	if !f.queued {
		return false
	}
	f.queued, f.with = false, with
	f.fs.secede(func() { f.run(f) }, f)
	return true
}

// claims is claim for a caller who does not hold fs.mu.
func (f *flight) claims(with company) bool {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.claim(with)
}

// landed says that one of our goroutines has ended.
func (fs *group) landed() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.running--
	if fs.closed && fs.running == 0 {
		close(fs.idle)
	}
}

// spawn is guard.Go in a goroutine that Close waits for. It is for goroutines of a
// flight that has not ended.
func (fs *group) spawn(code guard.Code, fn func() error, done func(error)) {
	fs.mu.Lock()
	fs.running++
	fs.mu.Unlock()
	fs.start(code, fn, done)
}

// start is guard.Go in a goroutine that is counted already.
func (fs *group) start(code guard.Code, fn func() error, done func(error)) {
	guard.Go(code, fn, func(err error) {
		defer fs.landed()
		done(err)
	})
}

// protect calls load in a goroutine of its own, so that nothing has to wait for one
// that does not heed its ctx. If load panics or exits, failed says what comes of
// that.
func protect[R any](fs *group, load func() R, failed func(error) R) <-chan R {
	ch := make(chan R, 1) // so that a load left behind can end
	var r R
	fs.spawn(guard.Load, func() error { r = load(); return nil }, func(err error) {
		if err != nil {
			r = failed(err)
		}
		ch <- r
	})
	return ch
}

// board adds a member. The caller holds fs.mu.
func (f *flight) board() *member {
	m := new(member)
	f.take(m)
	return m
}

func (f *flight) take(m *member) {
	m.f = f
	f.members = append(f.members, m)
	f.waiting++
}

// leave takes one member away, and cancels a flight that is then empty. The
// caller holds fs.mu.
func (f *flight) leave() {
	f.waiting--
	if f.waiting == 0 {
		f.detach()
		f.cancel(errAbandoned)
	}
}

// detach makes the flight one that nobody joins any more. The caller holds
// fs.mu.
func (f *flight) detach() {
	if f.fs.m[f.key] == f {
		delete(f.fs.m, f.key)
	}
}

// over reports whether done is closed.
func over(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// empty reports whether nobody waits for the flight.
func (f *flight) empty() bool {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.steady && f.waiting == 1
}

// mark returns how many have joined. Taken before a command is sent that proves
// the load to be untouched, it says whom the result may be given to.
func (f *flight) mark() int {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return len(f.members)
}

// marks is mark for several, at one moment; it notes it in each.
func (fs *group) marks(ps []*pursuit) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, p := range ps {
		p.joined = len(p.f.members)
	}
}

// marked is marks for whoever must not write to ps.
func (fs *group) marked(ps []*pursuit) []int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	joined := make([]int, len(ps))
	for i, p := range ps {
		joined[i] = len(p.f.members)
	}
	return joined
}

// begin says that the load of ps begins. Without a lease, nothing will prove it
// to whoever joins from now on.
func (fs *group) begin(ps []*pursuit) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, p := range ps {
		p.f.begun = len(p.f.members)
		if p.alone {
			p.proven = p.f.begun
		}
	}
}

// lose detaches a flight whose lease is lost.
func (f *flight) lose() {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.detach()
}

// finish gives r to the first n members, and lets the others who have not left
// board a flight of their own, or the one that came after this one was detached.
// Who wants a load that began later than this one is among the others.
func (f *flight) finish(r result, n int) {
	fs := f.fs
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.detach()
	delete(fs.aloft, f)
	fs.some.Store(len(fs.aloft) > 0)
	var late []*member
	for i, m := range f.members {
		if !m.left && (i >= n || m.anew && i >= f.begun) {
			late = append(late, m)
		}
	}
	f.members = nil
	f.r = r
	if len(late) > 0 {
		f.transfer(late)
		for _, m := range late {
			m.link.Move(&m.f.node)
		}
	}
	close(f.done)
	for _, ch := range f.waking {
		close(ch)
	}
	f.waking = nil
	f.cancel(nil)
}

// transfer makes members wait for another flight. The caller holds fs.mu.
//
// Who wants a load that begins after it came is not to board a flight of readers: that
// may find a value and load nothing, again and again.
func (f *flight) transfer(late []*member) {
	fs := f.fs
	next := fs.m[f.key]
	if fs.closed {
		next = &flight{fs: fs, r: result{err: ErrClosed}, done: f.done}
	}
	if next != nil {
		next.claim(company{})
	}
	anew := next
	for _, m := range late {
		if m.anew && !fs.closed && (anew == nil || !anew.anew) {
			anew = fs.launch(f.values, f.key, m.run)
			anew.aside, anew.anew = true, true
		}
	}
	if next == nil {
		next = anew
	}
	if next == nil {
		next = fs.launch(f.values, f.key, f.run)
		next.aside, next.anew = f.anew, f.anew
	}
	for _, m := range late {
		if m.anew {
			anew.take(m)
		} else {
			next.take(m)
		}
	}
}

// blame puts the cause of the end of ctx in place of its bare error.
func blame(ctx context.Context, err error) error {
	if end := ctx.Err(); end != nil && err == end {
		return context.Cause(ctx)
	}
	return err
}

var errAbandoned = errors.New("every caller has left")
