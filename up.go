package cachex

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cachex-go/cachex/internal/redact"
	"github.com/cachex-go/cachex/loader"
)

// ErrNotModified says that the value that Previous returned is still right.
// Spec.Up returns it, perhaps wrapped: that value then lives as long as a new one,
// and is not sent to Redis again. It is loader.ErrNotModified.
var ErrNotModified = loader.ErrNotModified

// Previous returns the value that an Up is about to replace, and whether there is
// one; ctx is the one that Up was given. There is none if the key was absent, was
// deleted, or what it holds is too old or cannot be decoded, nor ever in UpMany.
// V must be the type of the cache's values. The value must not be changed. It is
// safe for concurrent use.
//
//	Up: func(ctx context.Context, url string) (Page, error) {
//		old, _ := cachex.Previous[Page](ctx)
//		page, err := fetch(ctx, url, old.ETag)
//		if errors.Is(err, errStatusNotModified) {
//			return old, cachex.ErrNotModified
//		}
//		return page, err
//	},
func Previous[V any](ctx context.Context) (V, bool) { return loader.Previous[V](ctx) }

// NoStore says that the value that an Up is going to return is not to be stored;
// ctx is the one that Up was given. The callers who wait for it get it, and what
// was stored before stays, unless Up returns ErrNotFound. In UpMany it concerns
// all the keys of that call. It is safe for concurrent use.
func NoStore(ctx context.Context) { loader.NoStore(ctx) }

// restore calls up, and says how long lives what it returns. It is the load of
// every flight.
func (c *Cache[K, V]) restore(ctx context.Context, key K, up func(context.Context, K) (V, error)) (v V, life loader.Life, err error) {
	ctx, done := c.core.beginLoad(c.core.cross(ctx), 1, func() (string, error) { return c.render(key) })
	defer func() { done(err) }()
	v, err = up(ctx, key)
	return v, c.lives(ctx, key, v, err), err
}

// lives says how long to keep what an Up has returned.
func (c *Cache[K, V]) lives(ctx context.Context, key K, v V, err error) loader.Life {
	switch {
	case errors.Is(err, ErrNotFound):
		return c.core.notFoundLife()
	case errors.Is(err, ErrNotModified):
		v, _ = Previous[V](ctx)
	case err != nil:
		return loader.Life{}
	}
	life, err := c.life(key, v)
	if err != nil {
		return loader.Life{Fresh: -1} // no life at all: the value is returned, not stored, and counted
	}
	return life
}

// upOne is Up by UpMany.
func (c *Cache[K, V]) upOne(ctx context.Context, key K) (V, error) {
	var zero V
	if err := c.key.Hashable(key); err != nil {
		return zero, err // UpMany returns a map
	}
	values, err := c.spec.UpMany(ctx, []K{key})
	if v, ok := values[key]; ok {
		return v, nil
	}
	if err == nil {
		err = ErrNotFound
	}
	return zero, err
}

// restoreMany calls UpMany for some keys.
func (c *Cache[K, V]) restoreMany(ctx context.Context, keys []K) []loader.Loaded[V] {
	var err error
	ctx, done := c.core.beginLoad(c.core.cross(ctx), len(keys), func() (string, error) { return c.render(keys[0]) })
	defer func() { done(err) }()
	values, err := c.spec.UpMany(ctx, slices.Clone(keys)) // it may well sort them
	all := make([]loader.Loaded[V], len(keys))
	for i, key := range keys {
		v, ok := values[key]
		one := err
		switch {
		case ok:
			one = nil
		case err == nil:
			one = ErrNotFound
		case errors.Is(err, ErrNotFound), errors.Is(err, ErrNotModified):
			// Of which key? It is not known of any that it has no value.
			one = redact.Error("Spec.UpMany: "+err.Error(), nil)
		}
		all[i] = loader.Loaded[V]{Value: v, Life: c.lives(ctx, key, v, one), Err: one}
	}
	return all
}

// life returns how long value is to live, with the jitter taken off.
func (c *Cache[K, V]) life(key K, value V) (loader.Life, error) {
	if c.spec.TTLFor == nil {
		return c.core.life(nil)
	}
	return c.core.life(func() time.Duration { return c.spec.TTLFor(key, value) })
}
