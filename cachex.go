package cachex

import (
	"context"
	"reflect"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
)

// A Cache keeps values of type V by keys of type K in Redis, and restores those
// that are missing, once for the whole fleet. It is safe for concurrent use.
//
// Caches with the same template on the same Redis share their values, in one
// process or in many. A Cache owns no goroutine while nothing is being loaded,
// but for the one that hears of loads elsewhere, which ends with Close or a minute
// after it was last of use.
type Cache[K comparable, V any] struct {
	keyed *keyed[K] // not embedded: each type would then compile a wrapper of each of its methods
	typed *typed[K, V]
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

// Must returns v if err is nil and panics otherwise. It is for caches that are
// described by constants, where an error is a mistake in the program.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Name returns Spec.Name.
func (c *Cache[K, V]) Name() string { return c.keyed.core.name }

// Key returns the key in Redis, or "" where Get would return an error for it: a
// key that is too long, or whose text cannot be made. Of a cache with Spec.Packed it
// returns the key of a hash, a space, and a field, which is what HGET takes.
func (c *Cache[K, V]) Key(key K) string {
	rkey, err := c.keyed.render(key)
	if err != nil {
		return ""
	}
	return rkey
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
func (c *Cache[K, V]) Close(ctx context.Context) error { return c.keyed.core.close(ctx) }
