package cachex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/kind"
	"github.com/cachex-go/cachex/loader"
	"github.com/cachex-go/cachex/writebehind"
)

// A Cache keeps values of type V by keys of type K in Redis, and restores those
// that are missing, once for the whole fleet. It is safe for concurrent use.
//
// Caches with the same template on the same Redis share their values, in one
// process or in many. A Cache owns no goroutine while nothing is being loaded,
// but for the one that hears of loads elsewhere, which ends with Close or a minute
// after it was last of use.
type Cache[K comparable, V any] struct {
	name     string
	spec     Spec[K, V] // with its defaults
	rdb      redis.UniversalClient
	key      *key.Template[K]
	packed   *key.Packed[K]                      // nil: every entry has a key of its own
	up       func(context.Context, K) (V, error) // Spec.Up, or UpMany for one key
	loader   *loader.Loader[V]
	load     func(context.Context, K) (V, loader.Life, error) // restore, made once: a hit need not
	observer Observer
	engine   *writebehind.Engine // nil: nothing is written behind
	kind     *kind.Kind[K]       // nil: a Cache, and no more

	calls         door
	release       func()          // of the template
	closing       context.Context // ends with Close, for calls that would go on
	end           context.CancelFunc
	redisFailures atomic.Int64 // of Set and Delete

	observerFailures atomic.Int64
}

// New returns the cache that spec describes, or an error that names the field
// that is wrong. It makes no call to Redis. The client stays the caller's, and
// Close does not close it.
//
// Caches of one template and one client share their entries, so New returns an error
// where an open one has values of another type. New does not compare caches with
// KeyFunc.
func New[K comparable, V any](rdb redis.UniversalClient, spec Spec[K, V]) (_ *Cache[K, V], err error) {
	spec, template, err := spec.resolve()
	if err != nil {
		return nil, err
	}
	name := cmp.Or(spec.Name, template.Name())
	if spec.WriteBehind != 0 { // what is pending may be lost, and not only stale
		err = client.CheckShards(rdb)
	}
	if err == nil {
		err = client.CheckReads(rdb, spec.AllowStaleReads, "Spec.AllowStaleReads")
	}
	if err != nil {
		return nil, fmt.Errorf("cachex: %w", err)
	}
	var packed *key.Packed[K]
	if spec.Packed > 0 {
		if packed, err = template.Pack(spec.Packed, spec.Expected); err != nil {
			return nil, fmt.Errorf("cachex: Spec.Packed %w", err)
		}
	}
	carrier, carries := spec.Codec.(kind.Carrier[K])
	release := func() {}
	if spec.Key != "" {
		of := "cache"
		if carries {
			of = "counter"
		}
		if release, err = client.TemplatesOf(rdb).Claim(spec.Key, spec.Packed, of, name, reflect.TypeFor[V]()); err != nil {
			return nil, fmt.Errorf("cachex: %w", err)
		}
		defer func() {
			if err != nil {
				release()
			}
		}()
	}
	l, err := loader.New(rdb, loader.Options[V]{
		Codec:                spec.Codec,
		LeaseTTL:             spec.LeaseTTL,
		Timeout:              spec.UpTimeout,
		MaxLoads:             spec.MaxLoads,
		StaleWhileRevalidate: spec.StaleWhileRevalidate,
		StaleIfError:         spec.StaleIfError,
		SoftTimeout:          spec.SoftTimeout,
		Backoff:              spec.Backoff,
		EarlyRefresh:         spec.EarlyRefresh,
		Packed:               packed != nil,
		NoCombining:          spec.NoCombining,
	})
	if err != nil {
		return nil, fmt.Errorf("cachex: %w", err)
	}
	c := &Cache[K, V]{
		name:     name,
		spec:     spec,
		rdb:      rdb,
		key:      template,
		packed:   packed,
		loader:   l,
		observer: spec.Observer,
		release:  release,
	}
	if carries {
		c.carry(carrier.Kind())
	}
	if spec.WriteBehind != 0 {
		if err := c.behind(); err != nil {
			return nil, fmt.Errorf("cachex: %w", err)
		}
	}
	if c.up = c.spec.Up; c.up == nil && c.spec.UpMany != nil {
		c.up = c.upOne
	}
	c.load = func(ctx context.Context, key K) (V, loader.Life, error) { return c.restore(ctx, key, c.up) }
	c.closing, c.end = context.WithCancel(context.Background())
	return c, nil
}

// Must returns v if err is nil and panics otherwise. It is for caches that are
// described by constants, where an error is a mistake in the program.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Name returns Spec.Name.
func (c *Cache[K, V]) Name() string { return c.name }

// Key returns the key in Redis, or "" where Get would return an error for it: a
// key that is too long, or whose text cannot be made. Of a cache with Spec.Packed it
// returns the key of a hash, a space, and a field, which is what HGET takes.
func (c *Cache[K, V]) Key(key K) string {
	k, err := c.render(key)
	if err != nil {
		return ""
	}
	return k
}

// Close makes every further call return ErrClosed, ends RefreshEvery, and waits
// for the calls under way and for the loads that they left behind; what is written
// behind is persisted. If ctx ends first, Close cancels the loads and returns the cause
// of that end; calls return soon, but an Up that does not heed its ctx is then still
// running. Close may be called more than once, from several goroutines, but an Up that
// calls it waits for itself. The client stays open.
//
// Close releases the template of the cache for values of another type. When the last
// cache of the client is closed, Close frees the subscription and the goroutines that
// these caches share. A cache that is not closed keeps neither itself nor its client in
// memory once the program holds neither, unless it has Spec.WriteBehind or a call is
// under way.
func (c *Cache[K, V]) Close(ctx context.Context) error {
	if ctx == nil {
		return c.fail("close", "", errNilContext)
	}
	drained := c.drain(ctx, true)
	var late error
	idle := c.calls.shut()
	c.end()
	c.release()
	select {
	case <-idle:
	default:
		select {
		case <-idle:
		case <-ctx.Done():
			late = context.Cause(ctx)
		}
	}
	var persisted error
	if c.engine != nil {
		persisted = c.engine.Close(ctx)
	}
	if err := cmp.Or(errors.Join(persisted, drained), c.loader.Close(ctx), late); err != nil {
		return c.fail("close", "", err)
	}
	return nil
}

// enter begins a call: it returns the key in Redis, or the error of the call.
// Whoever gets no error calls c.calls.leave.
func (c *Cache[K, V]) enter(ctx context.Context, op string, key K) (string, error) {
	// The key first: KeyFunc is the user's, and might not come back.
	k, bad := c.render(key)
	if err := c.admit(ctx, op); err != nil {
		return "", err
	}
	if bad != nil {
		c.calls.leave()
		return "", c.fail(op, "", bad)
	}
	return k, nil
}

// admit is enter for a call that has no one key.
func (c *Cache[K, V]) admit(ctx context.Context, op string) error {
	if ctx == nil {
		return c.fail(op, "", errNilContext)
	}
	if !c.calls.enter() {
		return c.fail(op, "", ErrClosed)
	}
	if ctx.Err() != nil {
		c.calls.leave()
		return c.fail(op, "", context.Cause(ctx))
	}
	return nil
}

func (c *Cache[K, V]) render(key K) (string, error) {
	var buf [96]byte
	b, err := c.appendKey(buf[:0], key)
	return string(b), err
}

// appendKey appends what render returns.
func (c *Cache[K, V]) appendKey(dst []byte, key K) ([]byte, error) {
	if c.packed != nil {
		return c.packed.Append(dst, key)
	}
	if c.engine == nil {
		return c.key.Append(dst, key)
	}
	b, err := c.key.Append(nil, key)
	if err != nil {
		return dst, err
	}
	return append(append(dst, c.engine.Tag(string(b))...), b...), nil
}

func (c *Cache[K, V]) fail(op, key string, err error) error {
	return &Error{Op: op, Cache: c.name, Key: key, Err: err}
}

// A door counts those who are inside, and when shut says when the last has left.
type door struct {
	n    atomic.Int64                  // how many are inside, and shutBit
	idle atomic.Pointer[chan struct{}] // made by the first shut
	once sync.Once                     // closes idle
}

const shutBit = 1 << 62

// enter reports whether the door is open, and then counts the caller.
func (d *door) enter() bool {
	if d.n.Add(1)&shutBit == 0 {
		return true
	}
	d.leave()
	return false
}

func (d *door) leave() {
	if d.n.Add(-1) == shutBit {
		d.once.Do(func() { close(*d.idle.Load()) }) // who is refused passes here too
	}
}

// shut shuts the door and returns a channel that is closed when nobody is
// inside.
func (d *door) shut() <-chan struct{} {
	idle := make(chan struct{})
	if d.idle.CompareAndSwap(nil, &idle) {
		d.n.Add(shutBit + 1)
		d.leave() // if we are the last
	}
	return *d.idle.Load()
}
