package loader

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Flights loads each key once in this process: callers who ask for a key while
// it is being loaded share that load. The zero value is ready. A Flights is safe
// for concurrent use and must not be copied.
//
// A load belongs to its flight, not to the caller who happened to be first:
//
//   - It sees the values of the first caller's ctx, but not its end. It ends
//     with Timeout, or when the last caller has left.
//   - Every caller leaves on its own ctx, at once, and harms nobody by it.
//   - Nobody joins a flight that is cancelled, or one that Forget has detached.
//   - A panic is a *PanicError for every caller, runtime.Goexit is ErrGoexit.
//
// In all of these it differs from golang.org/x/sync/singleflight.
type Flights[V any] struct {
	// Timeout bounds one load. Its callers then get an error that is
	// context.DeadlineExceeded, and a load that does not heed its ctx is left
	// behind. It must not be changed after the first Do. Defaults to 0: no bound.
	Timeout time.Duration

	mu      sync.Mutex
	m       map[string]*flight[V]   // guarded by mu: the flights that may be joined
	aloft   map[*flight[V]]struct{} // guarded by mu: the flights that have not finished
	running int                     // guarded by mu: goroutines of ours
	some    atomic.Bool             // written under mu: aloft is not empty
	closed  bool                    // guarded by mu
	idle    chan struct{}           // made by the first Close; closed when closed and nothing is running
}

// Do returns what load returns for key: its own call of it, or that of a flight
// under way. All callers who joined before load returned get its result.
//
// The error is load's, the value then being zero; or the cause of the end of
// ctx, and the flight goes on for the others; or a *PanicError, ErrGoexit,
// ErrClosed, or ErrReentrant.
func (fs *Flights[V]) Do(ctx context.Context, key string, load func(context.Context) (V, error)) (V, error) {
	return fs.do(ctx, key, func(f *flight[V]) {
		r := f.await(f.start(load))
		f.finish(r.v, r.err, f.mark())
	})
}

// Forget detaches the flights of keys: who is on board gets the result, and who
// comes after begins anew. Call it when what a load may have read is no longer
// true.
func (fs *Flights[V]) Forget(keys ...string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, key := range keys {
		delete(fs.m, key)
	}
}

// Close makes every further Do return ErrClosed and waits for the loads under
// way. If ctx ends first, Close cancels them, so that their callers return, and
// returns the cause of that end; a load that does not heed its ctx is then still
// running. Close may be called more than once, and from several goroutines.
func (fs *Flights[V]) Close(ctx context.Context) error {
	fs.mu.Lock()
	if !fs.closed {
		fs.closed, fs.idle = true, make(chan struct{})
		if fs.running == 0 {
			close(fs.idle)
		}
	}
	fs.mu.Unlock()
	select {
	case <-fs.idle:
		return nil
	default:
	}
	select {
	case <-fs.idle:
		return nil
	case <-ctx.Done():
		fs.mu.Lock()
		defer fs.mu.Unlock()
		for f := range fs.aloft {
			f.cancel(ErrClosed)
		}
		return context.Cause(ctx)
	}
}

// A flight is one load and those who wait for it.
//
// What it finds may be older than its youngest member: a deletion, in another
// process even, can have come between. So a flight answers the members who had
// joined when it was last proven that nothing had come between, as many as its
// finish says. The others board one more flight, together and before it starts.
type flight[V any] struct {
	fs     *Flights[V]
	key    string
	run    func(*flight[V]) // calls finish, once
	values context.Context  // those of the first caller
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{} // closed by finish

	members []*member[V] // guarded by fs.mu: in the order in which they joined
	waiting int          // guarded by fs.mu: members who have not left

	v   V     // written by finish before it closes done
	err error // likewise
}

// A member is one caller.
type member[V any] struct {
	f    *flight[V] // guarded by fs.mu: whom the member waits for
	left bool       // guarded by fs.mu
}

// do joins the flight of key, or starts one, which run then has to finish.
func (fs *Flights[V]) do(ctx context.Context, key string, run func(*flight[V])) (V, error) {
	m, err := fs.board(ctx, key, run)
	if err != nil {
		var zero V
		return zero, err
	}
	return fs.wait(ctx, m)
}

// board joins the flight of key, or starts one. If run is nil it does not, and
// returns nil if there is none.
func (fs *Flights[V]) board(ctx context.Context, key string, run func(*flight[V])) (*member[V], error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for a, _ := ctx.Value(frameKey{}).(*frame); a != nil; a = a.above {
		if a.flights == any(fs) && a.key == key && !over(a.done) {
			return nil, ErrReentrant
		}
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.m[key]
	switch {
	case fs.closed:
		return nil, ErrClosed
	case f != nil:
		m := new(member[V])
		f.board(m)
		return m, nil
	case run == nil:
		return nil, nil
	}
	m := new(member[V])
	fs.launch(context.WithoutCancel(ctx), key, run, m)
	return m, nil
}

// wait returns what the flight of m finds, or that of a later one.
func (fs *Flights[V]) wait(ctx context.Context, m *member[V]) (V, error) {
	fs.mu.Lock()
	f := m.f
	fs.mu.Unlock()
	for {
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		fs.mu.Lock()
		if m.f != f {
			f = m.f // it came too late for what that flight found
		} else if over(f.done) {
			fs.mu.Unlock()
			return f.v, f.err
		}
		if ctx.Err() != nil && !over(f.done) {
			m.left = true
			f.leave()
			fs.mu.Unlock()
			var zero V
			return zero, context.Cause(ctx)
		}
		fs.mu.Unlock()
	}
}

// launch starts a flight with ms on board. The caller holds fs.mu.
func (fs *Flights[V]) launch(values context.Context, key string, run func(*flight[V]), ms ...*member[V]) *flight[V] {
	f := &flight[V]{fs: fs, key: key, run: run, values: values, done: make(chan struct{})}
	above, _ := values.Value(frameKey{}).(*frame)
	ctx := context.WithValue(values, frameKey{}, &frame{fs, key, f.done, above})
	ctx, cancel := context.WithCancelCause(ctx)
	f.ctx, f.cancel = ctx, cancel
	if fs.Timeout > 0 {
		late := fmt.Errorf("load took longer than %v: %w", fs.Timeout, context.DeadlineExceeded)
		ctx, stop := context.WithTimeoutCause(ctx, fs.Timeout, late)
		f.ctx, f.cancel = ctx, func(cause error) { cancel(cause); stop() }
	}
	for _, m := range ms {
		f.board(m)
	}
	if fs.m == nil {
		fs.m, fs.aloft = make(map[string]*flight[V]), make(map[*flight[V]]struct{})
	}
	fs.m[key] = f
	fs.aloft[f] = struct{}{}
	fs.some.Store(true)
	fs.running++
	go func() { // ends with run, which heeds f.ctx
		defer fs.landed()
		run(f)
	}()
	return f
}

// landed says that one of our goroutines has ended.
func (fs *Flights[V]) landed() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.running--
	if fs.closed && fs.running == 0 {
		close(fs.idle)
	}
}

// spawn runs fn in a goroutine that Close waits for. It is for goroutines of a
// flight that has not ended.
func (fs *Flights[V]) spawn(fn func()) {
	fs.mu.Lock()
	fs.running++
	fs.mu.Unlock()
	go func() {
		defer fs.landed()
		fn()
	}()
}

// board adds m. The caller holds fs.mu.
func (f *flight[V]) board(m *member[V]) {
	m.f = f
	f.members = append(f.members, m)
	f.waiting++
}

// leave takes one member away, and cancels a flight that is then empty. The
// caller holds fs.mu.
func (f *flight[V]) leave() {
	f.waiting--
	if f.waiting == 0 {
		f.detach()
		f.cancel(errAbandoned)
	}
}

// detach makes the flight one that nobody joins any more. The caller holds
// fs.mu.
func (f *flight[V]) detach() {
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

// mark returns how many have joined. Taken before a command is sent that proves
// the load to be untouched, it says whom the result may be given to.
func (f *flight[V]) mark() int {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return len(f.members)
}

// finish gives v and err to the first n members, and lets the others who have
// not left board a flight of their own, or the one that came after this one was
// detached.
func (f *flight[V]) finish(v V, err error, n int) {
	fs := f.fs
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.detach()
	delete(fs.aloft, f)
	fs.some.Store(len(fs.aloft) > 0)
	var late []*member[V]
	for _, m := range f.members[n:] {
		if !m.left {
			late = append(late, m)
		}
	}
	f.members = nil
	f.v, f.err = v, err
	switch next := fs.m[f.key]; {
	case len(late) == 0:
	case fs.closed:
		next = &flight[V]{fs: fs, err: ErrClosed, done: f.done}
		for _, m := range late {
			m.f = next
		}
	case next != nil:
		for _, m := range late {
			next.board(m)
		}
	default:
		fs.launch(f.values, f.key, f.run, late...)
	}
	close(f.done)
	f.cancel(nil)
}

// A result is what a load returned.
type result[V any] struct {
	v   V
	err error
}

// start runs load in a goroutine of its own, so that nobody has to wait for one
// that does not heed its ctx.
func (f *flight[V]) start(load func(context.Context) (V, error)) <-chan result[V] {
	ch := make(chan result[V], 1) // so that a load left behind can end
	f.fs.spawn(func() {
		r := result[V]{err: ErrGoexit} // unless load returns or panics
		defer func() {
			if p := recover(); p != nil {
				r = result[V]{err: newPanicError(p)}
			}
			ch <- r
		}()
		v, err := load(f.ctx)
		if err != nil {
			r.err = err
			return
		}
		r = result[V]{v: v}
	})
	return ch
}

// await returns what a load returned, or the cause of the flight's end.
func (f *flight[V]) await(ch <-chan result[V]) result[V] {
	select {
	case r := <-ch:
		return f.blame(r)
	case <-f.ctx.Done():
		return result[V]{err: context.Cause(f.ctx)}
	}
}

// blame puts the cause of the flight's end in place of the bare error of its
// ctx.
func (f *flight[V]) blame(r result[V]) result[V] {
	if end := f.ctx.Err(); end != nil && r.err == end {
		r.err = context.Cause(f.ctx)
	}
	return r
}

// nested reports whether a load of the same Flights has asked for this one.
func (f *flight[V]) nested() bool {
	for a, _ := f.values.Value(frameKey{}).(*frame); a != nil; a = a.above {
		if a.flights == any(f.fs) {
			return true
		}
	}
	return false
}

// A frame marks the ctx of a load, for a load that asks for what it loads.
type frame struct {
	flights any
	key     string
	done    <-chan struct{} // closed when the flight has ended, and may be asked for again
	above   *frame
}

type frameKey struct{}

var errAbandoned = errors.New("every caller has left")
