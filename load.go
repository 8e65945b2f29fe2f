package cachex

import (
	"context"
	"errors"
	"time"

	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/redact"
)

// ErrNotModified says that the value that Previous returned is still right.
// Spec.Up returns it, perhaps wrapped: that value then lives as long as a new one,
// and is not sent to Redis again.
var ErrNotModified = engine.ErrNotModified

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
func Previous[V any](ctx context.Context) (V, bool) {
	box, _ := engine.Previous(ctx)
	p, ok := box.(*V)
	if !ok {
		var zero V
		return zero, false
	}
	return *p, true
}

// NoStore says that the value that an Up is going to return is not to be stored;
// ctx is the one that Up was given. The callers who wait for it get it, and what
// was stored before stays, unless Up returns ErrNotFound. In UpMany it concerns
// all the keys of that call. It is safe for concurrent use.
func NoStore(ctx context.Context) { engine.NoStore(ctx) }

// restore calls up, and says how long lives what it returns. It is the load of
// every flight.
func (c *keyed[K]) loadOne(ctx context.Context, key K, up upBox[K]) (box any, life engine.Life, err error) {
	ctx, done := c.core.observeLoad(c.core.loadContext(ctx), 1, func() (string, error) { return c.render(key) })
	defer func() { done(err) }()
	box, err = up(ctx, key)
	return box, c.lifetimeOf(ctx, key, box, err), err
}

// lives says how long to keep what an Up has returned.
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
		return engine.Life{Fresh: -1} // no life at all: the value is returned, not stored, and counted
	}
	return life
}

// life returns how long a value is to live, with the jitter taken off.
func (c *keyed[K]) lifetime(key K, box any) (engine.Life, error) {
	if !c.core.settings.ttlFor {
		return c.core.lifetime(nil)
	}
	return c.core.lifetime(func() time.Duration { return c.values.ttl(key, box) })
}

// upOne is Up by UpMany.
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

// restoreMany calls UpMany for some keys.
func (c *keyed[K]) loadMany(ctx context.Context, keys []K) []engine.Loaded {
	var err error
	ctx, done := c.core.observeLoad(c.core.loadContext(ctx), len(keys), func() (string, error) { return c.render(keys[0]) })
	defer func() { done(err) }()
	boxes, err := c.upMany(ctx, keys)
	all := make([]engine.Loaded, len(keys))
	for i, key := range keys {
		one := err
		switch {
		case boxes[i] != nil:
			one = nil
		case err == nil:
			one = ErrNotFound
		case errors.Is(err, ErrNotFound), errors.Is(err, ErrNotModified):
			// Of which key? It is not known of any that it has no value.
			one = redact.Error("Spec.UpMany: "+err.Error(), nil)
		}
		all[i] = engine.Loaded{Value: boxes[i], Life: c.lifetimeOf(ctx, key, boxes[i], one), Err: one}
	}
	return all
}
