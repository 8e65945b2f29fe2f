package cachex

import (
	"context"
	"errors"
	"time"

	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/redact"
)

// ErrNotModified reports that the value returned by Previous is still right. If
// Spec.Up returns it, perhaps wrapped, that value lives as long as a new one
// and is not sent to Redis again.
var ErrNotModified = engine.ErrNotModified

// Previous returns the value that an Up is about to replace, and reports
// whether there is one. ctx is the ctx of Up. There is no previous value if the
// key was absent or deleted, or if its entry is too old or cannot be decoded.
// In UpMany there is never one. V must be the type of the cache's values. The
// value must not be changed. It is safe for concurrent use.
//
//	Up: func(ctx context.Context, url string) (Page, error) {
//		old, _ := cachex.Previous[Page](ctx)
//		page, err := fetch(ctx, url, old.ETag)
//		if errors.Is(err, errStatusNotModified) {
//			return old, cachex.ErrNotModified
//		}
//		return page, err
//	},
func Previous[V any](ctx context.Context) (V, bool) {
	box, _ := engine.Previous(ctx)
	p, ok := box.(*V)
	if !ok {
		var zero V
		return zero, false
	}
	return *p, true
}

// NoStore keeps the result of an Up from being stored. ctx is the ctx of Up.
// Its waiters still get the result, and the previous entry stays, unless Up
// returns ErrNotFound. In UpMany it applies to all keys of the call. It is safe
// for concurrent use.
func NoStore(ctx context.Context) { engine.NoStore(ctx) }

// loadOne calls up and returns the lifetime of its result. Every flight of one
// key loads with it.
func (c *keyed[K]) loadOne(ctx context.Context, key K, up upBox[K]) (box any, life engine.Life, err error) {
	ctx, done := c.core.observeLoad(c.core.loadContext(ctx), 1, func() (string, error) { return c.render(key) })
	defer func() { done(err) }()
	box, err = up(ctx, key)
	return box, c.lifetimeOf(ctx, key, box, err), err
}

// lifetimeOf returns the lifetime of a result of Up.
func (c *keyed[K]) lifetimeOf(ctx context.Context, key K, box any, err error) engine.Life {
	switch {
	case errors.Is(err, ErrNotFound):
		return c.core.notFoundLifetime()
	case errors.Is(err, ErrNotModified):
		box, _ = engine.Previous(ctx)
	case err != nil:
		return engine.Life{}
	}
	life, err := c.lifetime(key, box)
	if err != nil {
		return engine.Life{Fresh: -1} // invalid: the value is returned, not stored, and counted
	}
	return life
}

// lifetime returns the lifetime of a value, with jitter applied.
func (c *keyed[K]) lifetime(key K, box any) (engine.Life, error) {
	if !c.core.settings.ttlFor {
		return c.core.lifetime(nil)
	}
	return c.core.lifetime(func() time.Duration { return c.values.ttl(key, box) })
}

// upViaMany implements Up by UpMany.
func (c *keyed[K]) upViaMany(ctx context.Context, key K) (any, error) {
	if err := c.template.Hashable(key); err != nil {
		return nil, err // UpMany returns a map
	}
	boxes, err := c.upMany(ctx, []K{key})
	if boxes[0] != nil {
		return boxes[0], nil
	}
	if err == nil {
		err = ErrNotFound
	}
	return nil, err
}

// loadMany calls UpMany for keys.
func (c *keyed[K]) loadMany(ctx context.Context, keys []K) []engine.LoadResult {
	var err error
	ctx, done := c.core.observeLoad(c.core.loadContext(ctx), len(keys), func() (string, error) { return c.render(keys[0]) })
	defer func() { done(err) }()
	boxes, err := c.upMany(ctx, keys)
	all := make([]engine.LoadResult, len(keys))
	for i, key := range keys {
		one := err
		switch {
		case boxes[i] != nil:
			one = nil
		case err == nil:
			one = ErrNotFound
		case errors.Is(err, ErrNotFound), errors.Is(err, ErrNotModified):
			// The error does not say which key it is about, so no key may be
			// remembered as absent or renewed.
			one = redact.Error("Spec.UpMany: "+err.Error(), nil)
		}
		all[i] = engine.LoadResult{Value: boxes[i], Life: c.lifetimeOf(ctx, key, boxes[i], one), Err: one}
	}
	return all
}
