// Package loader loads each key once for all processes that share a Redis,
// without a cache: it has no key template, no typed keys and no hooks. Package
// cachex builds its caches on the same engine.
//
// A Loader stores the result of a load only if the key was not deleted or
// written since the load began:
//
//	After a deletion has returned, no call that starts later gets a value whose
//	load began before it.
//
// The rule holds across processes, and for deletions by any program. It does
// not hold if Redis loses the deletion, as an asynchronous failover can.
package loader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/engine"
)

// Options describe a Loader. Durations are whole milliseconds.
type Options[V any] struct {
	// Codec converts values to the bytes that Redis stores, and back. Defaults to
	// codec.For[V]().
	Codec codec.Codec[V]

	// LeaseTTL is how long a lease lasts unless it is renewed: if a process dies,
	// the others wait this long. The Loader renews a lease every third of LeaseTTL,
	// so a load may take longer. Defaults to 3 s.
	LeaseTTL time.Duration

	// Timeout bounds one load, from the miss of its first caller. Its callers then
	// get an error that is context.DeadlineExceeded. Defaults to a minute.
	Timeout time.Duration

	// MaxLoads bounds the loads that run at once in this process. Further loads
	// queue, and hold no lease meanwhile. Defaults to 0: no bound.
	MaxLoads int

	// StaleWhileRevalidate is how long a value is still served after Life.Fresh,
	// while one process reloads it. Defaults to 0.
	StaleWhileRevalidate time.Duration

	// StaleIfError is how long after that a value is kept, and served if its load
	// fails. Life.Keep must be the sum of Life.Fresh, StaleWhileRevalidate and
	// StaleIfError. Defaults to 0.
	StaleIfError time.Duration
}

// A Loader loads each key once for all processes that share a Redis. It is safe
// for concurrent use.
type Loader[V any] struct {
	engine *engine.Engine
}

// New returns a Loader, or an error that names the wrong option. It makes no
// call to Redis.
func New[V any](rdb redis.UniversalClient, o Options[V]) (*Loader[V], error) {
	if o.Codec == nil {
		o.Codec = codec.For[V]()
	}
	e, err := engine.New(rdb, boxCodec[V]{codec.Bind(o.Codec)}, engine.Options{
		LeaseTTL:             o.LeaseTTL,
		Timeout:              o.Timeout,
		MaxLoads:             o.MaxLoads,
		StaleWhileRevalidate: o.StaleWhileRevalidate,
		StaleIfError:         o.StaleIfError,
	})
	if err != nil {
		return nil, err
	}
	return &Loader[V]{engine: e}, nil
}

// A Life says how long a value lives, in whole milliseconds from 1 ms to ten
// years, or Forever. A value whose Life is zero is returned and not stored.
type Life struct {
	Fresh time.Duration // how long the value is served as fresh
	Keep  time.Duration // how long Redis keeps the value, at least Fresh
}

// Forever is the duration of a Life that does not end.
const Forever = engine.Forever

// check returns an error that names the field that is wrong.
func (l Life) check() error {
	if err := engine.CheckLife(l.Fresh); err != nil {
		return fmt.Errorf("Life.Fresh: %w", err)
	}
	if err := engine.CheckLife(l.Keep); err != nil {
		return fmt.Errorf("Life.Keep: %w", err)
	}
	if l.Keep < l.Fresh {
		return fmt.Errorf("Life.Keep is %v, must be at least Life.Fresh, which is %v", l.Keep, l.Fresh)
	}
	return nil
}

// Get returns the value of key from Redis. If Redis has no value, one caller in
// one process takes a lease, calls load and stores the result; all other callers
// wait for that load. If Redis does not answer, load is called once at a time in
// this process, and nothing is stored.
//
// load returns the value and its Life, or an error, which is not stored: the next
// caller loads again. If the error is ErrNotFound, and the Life is not zero,
// Redis remembers for Life.Fresh that the key has no value.
//
// The error is the error of load; or the cause of the end of ctx, and the load
// goes on for the other callers; or a *PanicError, or an error that is ErrGoexit,
// ErrClosed or ErrReentrant. A failure of Redis is not an error: see Stats.
func (l *Loader[V]) Get(ctx context.Context, key string, load func(ctx context.Context) (V, Life, error)) (V, error) {
	box, _, err := l.engine.GetOrLoad(ctx, key, &target[V]{load: load})
	return unbox[V](box), err
}

// Lookup returns the value of key in Redis, and whether there is one. It neither
// loads nor waits for a load. A stale value counts for StaleWhileRevalidate. The
// error is a failure of Redis, or the cause of the end of ctx.
func (l *Loader[V]) Lookup(ctx context.Context, key string) (V, bool, error) {
	box, outcome, err := l.engine.Find(ctx, key, new(V))
	return unbox[V](box), outcome == engine.OutcomeHit || outcome == engine.OutcomeStale, err
}

// Refresh calls load now, stores the result and returns it. Until then other
// callers get the current value. If a load of key is under way in any process,
// its result is not stored. If load fails, Refresh returns its error, and the
// current value stays. If Redis does not answer, nothing is stored.
func (l *Loader[V]) Refresh(ctx context.Context, key string, load func(ctx context.Context) (V, Life, error)) (V, error) {
	box, _, err := l.engine.Refresh(ctx, key, boxed(load))
	return unbox[V](box), err
}

// Set stores a value for life, which must not be zero. A load of key that is under way in any process is then not
// stored. Of two concurrent calls one value stays.
//
// The value is sent once. If Redis does not answer, or ctx ends after the value
// was sent, the error is cachex.ErrOutcomeUnknown: the value may be stored, or be
// stored later. After any other error nothing is stored.
func (l *Loader[V]) Set(ctx context.Context, key string, value V, life Life) error {
	if err := life.check(); err != nil {
		return err
	}
	w, err := l.engine.NewWrite(key, engine.Life(life), &value)
	if err != nil {
		return err
	}
	err = l.engine.Write(ctx, w)
	l.engine.Forget(key) // after the write: a later caller must not join a load that began before it
	return err
}

// Delete deletes the values of keys. Loads of keys that are under way in any
// process are then not stored. If the error is not nil, some values may be left;
// repeat the call.
func (l *Loader[V]) Delete(ctx context.Context, keys ...string) error {
	err := errors.Join(l.engine.Delete(ctx, keys)...)
	l.engine.Forget(keys...) // after the deletion, as in Set
	return err
}

// Forget detaches the loads of keys that are under way in this process: their
// callers get the result, and later callers load again. Call it after another
// program or client deleted or wrote the keys.
func (l *Loader[V]) Forget(keys ...string) { l.engine.Forget(keys...) }

// Close makes further loads return ErrClosed, and waits for loads under way. If
// ctx ends first, Close cancels them and returns the cause. Close may be called
// more than once. The client stays open.
func (l *Loader[V]) Close(ctx context.Context) error { return l.engine.Close(ctx) }

// A boxCodec is the codec of the values, for the engine.
type boxCodec[V any] struct{ codec codec.Keyed[V] }

// NewBox implements engine.Codec.
func (boxCodec[V]) NewBox() any { return new(V) }

// AppendBox implements engine.Codec.
func (c boxCodec[V]) AppendBox(dst []byte, key string, box any) ([]byte, error) {
	return c.codec.AppendKeyed(dst, key, *box.(*V))
}

// DecodeBox implements engine.Codec.
func (c boxCodec[V]) DecodeBox(src []byte, key string, box any) error {
	return c.codec.DecodeKeyed(src, key, box.(*V))
}

// Codec implements engine.Codec.
func (c boxCodec[V]) Codec() any { return c.codec }

// A target holds the value and the load of one Get in one allocation.
type target[V any] struct {
	value V // set by a hit
	load  func(context.Context) (V, Life, error)
}

// Box implements engine.Target.
func (t *target[V]) Box() any { return &t.value }

// Load implements engine.Target.
func (t *target[V]) Load(ctx context.Context) (any, engine.Life, error) {
	return boxed(t.load)(ctx)
}

// boxed returns a load for the engine.
func boxed[V any](load func(context.Context) (V, Life, error)) engine.Func {
	return func(ctx context.Context) (any, engine.Life, error) {
		v, life, err := load(ctx)
		return &v, engine.Life(life), err
	}
}

// unbox returns the value in a box, or the zero value if box is nil.
func unbox[V any](box any) (value V) {
	if p, ok := box.(*V); ok {
		value = *p
	}
	return value
}
