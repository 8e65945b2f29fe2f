package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
)

// A group loads each key once in this process; see Flights. The zero value is
// ready. A group must not be copied.
type group struct {
	// timeout bounds one load. 0 is no bound. It must not change after the
	// first flight.
	timeout time.Duration

	// mu guards the fields below, and the fields of flights, waiters and
	// sharedCtxs that say so. A getShard.mu may be locked while mu is held, and
	// not the other way round.
	mu         sync.Mutex
	joinable   map[string]*flight   // flights that callers may join
	active     map[*flight]struct{} // flights that have not finished
	goroutines int                  // the number of goroutines of the group
	closed     bool

	anyActive atomic.Bool   // written under mu: active is not empty
	idle      chan struct{} // made by the first Close; closed when the last goroutine ends
}

// share is Flights.Begin, for values that are pointers.
func (g *group) share(ctx context.Context, key string, load func(context.Context) (any, error)) (own bool, wait func() (any, error)) {
	w, own, err := g.joinOrStart(ctx, key, false, func(f *flight) {
		ch := goLoad(g, func() result {
			v, err := load(f.ctx)
			if err != nil {
				return result{err: err}
			}
			return result{v: v}
		}, func(err error) result { return result{err: err} })
		select {
		case r := <-ch:
			r.err = withCause(f.ctx, r.err)
			f.finish(r, f.waiterCount())
		case <-f.ctx.Done():
			f.finish(result{err: context.Cause(f.ctx)}, f.waiterCount())
		}
	}, nil)
	return own, func() (any, error) {
		if err != nil {
			return nil, err
		}
		r, _ := g.wait(ctx, w, nil)
		return r.v, r.err
	}
}

// Forget detaches the flights of keys: their waiters get the result, and later
// callers load again. Call it when data that a load may have read is no longer
// true.
func (g *group) Forget(keys ...string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, key := range keys {
		delete(g.joinable, key)
	}
}

// ForgetAll is Forget for every key, for callers that removed keys without
// knowing which.
func (g *group) ForgetAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.joinable)
}

// Spawn is guard.Go in a goroutine that Close waits for. If Close has ended, or
// would end at once, it is guard.Run in the caller's goroutine.
func (g *group) Spawn(code guard.Code, fn func() error, done func(error)) {
	g.mu.Lock()
	ended := g.closed && g.goroutines == 0
	if !ended {
		g.goroutines++
	}
	g.mu.Unlock()
	if ended {
		guard.Run(code, fn, done)
		return
	}
	g.goCounted(code, fn, done)
}

// exit records that a goroutine of the group has ended.
func (g *group) exit() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.goroutines--
	if g.closed && g.goroutines == 0 {
		close(g.idle)
	}
}

// goHeld is guard.Go in a goroutine that Close waits for. Only a flight that
// has not ended may call it.
func (g *group) goHeld(code guard.Code, fn func() error, done func(error)) {
	g.mu.Lock()
	g.goroutines++
	g.mu.Unlock()
	g.goCounted(code, fn, done)
}

// goCounted is guard.Go in a goroutine that is already counted.
func (g *group) goCounted(code guard.Code, fn func() error, done func(error)) {
	guard.Go(code, fn, func(err error) {
		defer g.exit()
		done(err)
	})
}

// goLoad calls load in a goroutine of its own, so that no waiter depends on a
// load that ignores its ctx. If load panics or exits, failed turns that error
// into a result.
func goLoad[R any](g *group, load func() R, failed func(error) R) <-chan R {
	ch := make(chan R, 1) // buffered, so that a load left behind can end
	var r R
	g.goHeld(guard.Load, func() error { r = load(); return nil }, func(err error) {
		if err != nil {
			r = failed(err)
		}
		ch <- r
	})
	return ch
}

// Close makes every further Do return ErrClosed, and waits for active loads. If
// ctx ends first, Close cancels the loads, so that their callers return, and
// returns the cause. A load that ignores its ctx then still runs. Close may be
// called more than once, and from several goroutines.
func (g *group) Close(ctx context.Context) error {
	g.mu.Lock()
	if !g.closed {
		g.closed, g.idle = true, make(chan struct{})
		if g.goroutines == 0 {
			close(g.idle)
		}
	}
	g.mu.Unlock()
	select {
	case <-g.idle:
		return nil
	default:
	}
	select {
	case <-g.idle:
		return nil
	case <-ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		for f := range g.active {
			f.cancel(ErrClosed)
		}
		return context.Cause(ctx)
	}
}
