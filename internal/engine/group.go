package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
)

// A group loads each key once in this process, as Flights does. The zero value is
// ready. A group must not be copied.
type group struct {
	timeout time.Duration // bounds one load; 0: no bound. Not changed after the first flight

	mu      sync.Mutex
	m       map[string]*flight   // guarded by mu: the flights that may be joined
	aloft   map[*flight]struct{} // guarded by mu: the flights that have not finished
	running int                  // guarded by mu: goroutines of ours
	some    atomic.Bool          // written under mu: aloft is not empty
	closed  bool                 // guarded by mu
	idle    chan struct{}        // made by the first Close; closed when closed and nothing is running
}

// share is Flights.Begin. A value is a pointer.
func (fs *group) share(ctx context.Context, key string, load func(context.Context) (any, error)) (own bool, wait func() (any, error)) {
	m, own, err := fs.embark(ctx, key, false, func(f *flight) {
		ch := protect(fs, func() result {
			v, err := load(f.ctx)
			if err != nil {
				return result{err: err}
			}
			return result{v: v}
		}, func(err error) result { return result{err: err} })
		select {
		case r := <-ch:
			r.err = blame(f.ctx, r.err)
			f.finish(r, f.mark())
		case <-f.ctx.Done():
			f.finish(result{err: context.Cause(f.ctx)}, f.mark())
		}
	}, nil)
	return own, func() (any, error) {
		if err != nil {
			return nil, err
		}
		r, _ := fs.wait(ctx, m, nil)
		return r.v, r.err
	}
}

// Forget detaches the flights of keys: who is on board gets the result, and who
// comes after begins anew. Call it when what a load may have read is no longer
// true.
func (fs *group) Forget(keys ...string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, key := range keys {
		delete(fs.m, key)
	}
}

// Spawn is guard.Go in a goroutine that Close waits for. Once Close has ended, or
// would at once, it is guard.Run in the goroutine of the caller.
func (fs *group) Spawn(code guard.Code, fn func() error, done func(error)) {
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
func (fs *group) Close(ctx context.Context) error {
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
