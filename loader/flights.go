package loader

import (
	"context"
	"sync"
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

	began sync.Once // sets group.timeout
	group
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
	fs.began.Do(func() { fs.timeout = fs.Timeout })
	own, result := fs.share(ctx, key, func(ctx context.Context) (any, error) {
		v, err := load(ctx)
		return &v, err
	})
	return own, func() (V, error) {
		v, err := result()
		return unbox[V](v), err
	}
}
