package engine

import (
	"context"
	"sync"
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

	began sync.Once // sets group.timeout
	group group
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

// Forget detaches the flights of keys: who is on board gets the result, and who
// comes after begins anew. Call it when what a load may have read is no longer
// true.
func (fs *Flights[V]) Forget(keys ...string) { fs.group.Forget(keys...) }

// ForgetAll is Forget for every key. It is for whoever has taken keys away
// without knowing which.
func (fs *Flights[V]) ForgetAll() { fs.group.ForgetAll() }

// Spawn is guard.Go in a goroutine that Close waits for. Once Close has ended, or
// would at once, it is guard.Run in the goroutine of the caller.
func (fs *Flights[V]) Spawn(code guard.Code, fn func() error, done func(error)) {
	fs.group.Spawn(code, fn, done)
}

// Close makes every further Do return ErrClosed and waits for the loads under
// way. If ctx ends first, Close cancels them, so that their callers return, and
// returns the cause of that end; a load that does not heed its ctx is then still
// running. Close may be called more than once, and from several goroutines.
func (fs *Flights[V]) Close(ctx context.Context) error { return fs.group.Close(ctx) }
