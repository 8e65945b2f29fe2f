package cachex

import (
	"context"
	"reflect"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
)

// Cache stores values of type V by keys of type K in Redis, and loads missing
// values once for the whole fleet. It is safe for concurrent use.
//
// Caches with the same template on the same Redis share their values, in one
// process or in many. An idle Cache runs no goroutines, except a pub/sub
// listener for loads in other processes. The listener stops on Close, or one
// minute after its last use.
type Cache[K comparable, V any] struct {
	keyed *keyed[K] // not embedded: each type would then compile a wrapper of each of its methods
	typed *typed[K, V]
}

// New returns the cache that spec describes, or an error that names the invalid
// field. It makes no call to Redis. The caller keeps the client: Close does not
// close it.
//
// Caches of one template and one client share their entries. So New returns an
// error if an open cache of the same template has values of another type.
// Caches with a KeyFunc are not compared.
func New[K comparable, V any](rdb redis.UniversalClient, spec Spec[K, V]) (*Cache[K, V], error) {
	set, template, err := spec.resolve()
	if err != nil {
		return nil, err
	}
	t := &typed[K, V]{
		codec: spec.Codec, upFunc: spec.Up, upManyFunc: spec.UpMany,
		downFunc: spec.Down, downManyFunc: spec.DownMany, ttlFunc: spec.TTLFor,
	}
	t.keyed, _ = spec.Codec.(codec.Keyed[V])
	k, err := open(rdb, &set, template, t, spec.Codec, reflect.TypeFor[V]())
	if err != nil {
		return nil, err
	}
	return &Cache[K, V]{k, t}, nil
}

// Must returns v if err is nil, and panics otherwise. It is for caches
// described by constants, where an error is a mistake in the program.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Name returns Spec.Name.
func (c *Cache[K, V]) Name() string { return c.keyed.core.name }

// Key returns the key in Redis. If Spec.Packed is set, Key returns the hash key
// and the field, separated by a space: the arguments of HGET. If Get would
// return an error for the key, because it is too long or cannot be rendered,
// Key returns "".
func (c *Cache[K, V]) Key(key K) string {
	rkey, err := c.keyed.render(key)
	if err != nil {
		return ""
	}
	return rkey
}

// Close makes every further call return ErrClosed, ends RefreshEvery, and
// persists the values written behind. It waits for the calls in flight and for
// the loads that they left behind. If ctx ends first, Close cancels the loads
// and returns the cause. Calls then return soon, but an Up that ignores its ctx
// is still running. Close may be called more than once and concurrently. An Up
// that calls Close waits for itself. The client stays open.
//
// Close releases the template, so that values of another type may use it. When
// the last cache of the client is closed, Close frees the subscription and the
// goroutines that these caches share. A cache that is never closed does not
// keep itself or its client in memory, unless it has Spec.WriteBehind or a call
// in flight.
func (c *Cache[K, V]) Close(ctx context.Context) error { return c.keyed.core.close(ctx) }
