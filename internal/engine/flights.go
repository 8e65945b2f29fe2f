package engine

import (
	"context"
	"sync"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
)

// Flights loads each key once in this process: callers that ask for a key while
// it is being loaded share that load. The zero value is ready. A Flights is
// safe for concurrent use and must not be copied.
//
// A load belongs to its flight, not to the first caller:
//
//   - It sees the values of the first caller's ctx, but not its end. It ends
//     with Timeout, or when the last caller has left.
//   - Every caller leaves on its own ctx, at once, without harm to the others.
//   - No caller joins a flight that is cancelled, or that Forget has detached.
//   - A panic is a *PanicError for every caller; runtime.Goexit is ErrGoexit.
//
// In all of these it differs from golang.org/x/sync/singleflight.
type Flights[V any] struct {
	// Timeout bounds one load. When it ends, the callers get an error that
	// wraps context.DeadlineExceeded, and a load that ignores its ctx is left
	// behind. Timeout must not change after the first Do. Defaults to 0: no
	// bound.
	Timeout time.Duration

	began sync.Once // sets group.timeout
	group group
}

// Do returns the result of load for key: of its own call, or of an active
// flight. All callers that joined before load returned get the same result.
//
// If the load fails, the value is zero and the error is the load's. If ctx
// ends, the error is its cause, and the flight goes on for the other callers.
// Do can also return a *PanicError, ErrGoexit, ErrClosed or ErrReentrant.
func (fs *Flights[V]) Do(ctx context.Context, key string, load func(context.Context) (V, error)) (V, error) {
	_, wait := fs.Begin(ctx, key, load)
	return wait()
}

// Begin is Do in two steps, for callers that have other work in between. It
// joins the flight of key or starts one, and does not wait. Its result own
// reports whether Begin started the flight, so that load is called. The
// function wait waits, and returns the result of Do. It must be called once:
// until then the flight counts the caller as a waiter.
func (fs *Flights[V]) Begin(ctx context.Context, key string, load func(context.Context) (V, error)) (own bool, wait func() (V, error)) {
	fs.began.Do(func() { fs.group.timeout = fs.Timeout })
	own, result := fs.group.share(ctx, key, func(ctx context.Context) (any, error) {
		v, err := load(ctx)
		return &v, err
	})
	return own, func() (V, error) {
		v, err := result()
		return unbox[V](v), err
	}
}

// Forget detaches the flights of keys: their waiters get the result, and later
// callers load again. Call it when data that a load may have read is no longer
// true.
func (fs *Flights[V]) Forget(keys ...string) { fs.group.Forget(keys...) }

// ForgetAll is Forget for every key, for callers that removed keys without
// knowing which.
func (fs *Flights[V]) ForgetAll() { fs.group.ForgetAll() }

// Spawn is guard.Go in a goroutine that Close waits for. If Close has ended, or
// would end at once, it is guard.Run in the caller's goroutine.
func (fs *Flights[V]) Spawn(code guard.Code, fn func() error, done func(error)) {
	fs.group.Spawn(code, fn, done)
}

// Close makes every further Do return ErrClosed, and waits for active loads. If
// ctx ends first, Close cancels the loads, so that their callers return, and
// returns the cause. A load that ignores its ctx then still runs. Close may be
// called more than once, and from several goroutines.
func (fs *Flights[V]) Close(ctx context.Context) error { return fs.group.Close(ctx) }
