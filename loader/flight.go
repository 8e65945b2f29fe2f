package loader

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
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
	_, wait := fs.Begin(ctx, key, load)
	return wait()
}

// Begin is Do in two steps, for whoever has something else to do in between: it joins
// the flight of key or starts one, and does not wait. own reports whether it has
// started it, so that load is called. wait then waits, and returns what Do would; it
// must be called, once, or the flight takes the caller for one who waits for ever.
func (fs *Flights[V]) Begin(ctx context.Context, key string, load func(context.Context) (V, error)) (own bool, wait func() (V, error)) {
	m, own, err := fs.embark(ctx, key, false, func(f *flight[V]) {
		ch := protect(fs, func() result[V] {
			v, err := load(f.ctx)
			if err != nil {
				return result[V]{err: err}
			}
			return result[V]{v: v}
		}, func(err error) result[V] { return result[V]{err: err} })
		select {
		case r := <-ch:
			r.err = blame(f.ctx, r.err)
			f.finish(r, f.mark())
		case <-f.ctx.Done():
			f.finish(result[V]{err: context.Cause(f.ctx)}, f.mark())
		}
	}, nil)
	return own, func() (V, error) {
		if err != nil {
			var zero V
			return zero, err
		}
		r, _ := fs.wait(ctx, m, nil)
		return r.v, r.err
	}
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

// Spawn is guard.Go in a goroutine that Close waits for. Once Close has ended, or
// would at once, it is guard.Run in the goroutine of the caller.
func (fs *Flights[V]) Spawn(code guard.Code, fn func() error, done func(error)) {
	fs.mu.Lock()
	ended := fs.closed && fs.running == 0
	if !ended {
		fs.running++
	}
	fs.mu.Unlock()
	if ended {
		guard.Run(code, fn, done)
		return
	}
	fs.start(code, fn, done)
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
