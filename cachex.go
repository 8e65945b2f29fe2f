package cachex

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/kind"
	"github.com/cachex-go/cachex/loader"
)

// A Cache keeps values of type V by keys of type K in Redis, and restores those
// that are missing, once for the whole fleet. It is safe for concurrent use.
//
// Caches with the same template on the same Redis share their values, in one
// process or in many. A Cache owns no goroutine while nothing is being loaded,
// but for the one that hears of loads elsewhere, which ends with Close or a minute
// after it was last of use.
type Cache[K comparable, V any] struct {
	core   core       // not embedded: each type would then compile a wrapper of each of its methods
	spec   Spec[K, V] // with its Codec
	key    *key.Template[K]
	packed *key.Packed[K]                      // nil: every entry has a key of its own
	up     func(context.Context, K) (V, error) // Spec.Up, or UpMany for one key
	loader *loader.Loader[V]
	load   func(context.Context, K) (V, loader.Life, error) // restore, made once: a hit need not
	kind   *kind.Kind[K]                                    // nil: a Cache, and no more
}

// New returns the cache that spec describes, or an error that names the field
// that is wrong. It makes no call to Redis. The client stays the caller's, and
// Close does not close it.
//
// Caches of one template and one client share their entries, so New returns an error
// where an open one has values of another type. New does not compare caches with
// KeyFunc.
func New[K comparable, V any](rdb redis.UniversalClient, spec Spec[K, V]) (*Cache[K, V], error) {
	set, template, err := spec.resolve()
	if err != nil {
		return nil, err
	}
	c := &Cache[K, V]{spec: spec, key: template}
	if err := c.open(rdb, &set); err != nil {
		c.core.release()
		return nil, fmt.Errorf("cachex: %w", err)
	}
	return c, nil
}

// open makes what a Cache is made of.
func (c *Cache[K, V]) open(rdb redis.UniversalClient, set *settings) (err error) {
	if err = c.core.open(rdb, set, c.key.Name(), reflect.TypeFor[V]()); err != nil {
		return err
	}
	if set.packed > 0 {
		if c.packed, err = c.key.Pack(set.packed, set.expected); err != nil {
			return fmt.Errorf("Spec.Packed %w", err)
		}
	}
	c.loader, err = loader.New(rdb, loader.Options[V]{
		Codec:                c.spec.Codec,
		LeaseTTL:             set.leaseTTL,
		Timeout:              set.upTimeout,
		MaxLoads:             set.maxLoads,
		StaleWhileRevalidate: set.swr,
		StaleIfError:         set.sie,
		SoftTimeout:          set.softTimeout,
		Backoff:              set.backoff,
		EarlyRefresh:         set.earlyRefresh,
		Packed:               c.packed != nil,
		NoCombining:          set.noCombining,
	})
	if err != nil {
		return err
	}
	c.core.loads = c.loader
	if carrier, ok := c.spec.Codec.(kind.Carrier[K]); ok {
		c.kind = carrier.Kind()
		carry(&c.core, c.kind, c.render)
	}
	if set.writeBehind != 0 {
		if err := c.behind(); err != nil {
			return err
		}
	}
	if c.up = c.spec.Up; c.up == nil && c.spec.UpMany != nil {
		c.up = c.upOne
	}
	c.load = func(ctx context.Context, key K) (V, loader.Life, error) { return c.restore(ctx, key, c.up) }
	return nil
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
func (c *Cache[K, V]) Name() string { return c.core.name }

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
func (c *Cache[K, V]) Close(ctx context.Context) error { return c.core.close(ctx) }

// enter begins a call: it returns the key in Redis, or the error of the call. If the
// error is nil, the caller must call c.calls.leave.
func (c *Cache[K, V]) enter(ctx context.Context, op string, key K) (string, error) {
	// The key first: KeyFunc is the user's, and might not come back.
	k, bad := c.render(key)
	return c.core.enter(ctx, op, k, bad)
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
	if c.core.engine == nil {
		return c.key.Append(dst, key)
	}
	b, err := c.key.Append(nil, key)
	if err != nil {
		return dst, err
	}
	return append(append(dst, c.core.engine.Tag(string(b))...), b...), nil
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
