package cachex

import (
	"context"
	"errors"
	"time"

	"github.com/cachex-go/cachex/loader"
)

// Refresh loads the value of key now, whatever is in Redis, stores it and returns
// it. Readers are served what was there meanwhile.
//
// The load begins after the call. A load that is under way, in any process, goes
// on for those who wait for it, and is not stored. Callers in this process who come
// during a Refresh share the next one: one call of Up at a time runs for them.
//
// The error is an *Error: of Up, ErrNotFound among them, or the cause of the end of
// ctx. What was in Redis then stays, but for ErrNotFound. Where Redis fails, Up is
// called all the same, and nothing is stored; Stats count it.
func (c *Cache[K, V]) Refresh(ctx context.Context, key K) (V, error) {
	var zero V
	k, err := c.enter(ctx, OpRefresh, key)
	if err != nil {
		tell(ctx, 0)
		return zero, err
	}
	defer c.core.calls.leave()
	if c.up == nil {
		tell(ctx, 0)
		return zero, c.core.fail(OpRefresh, k, errNoUp)
	}
	ctx, w := c.core.begin(ctx, OpRefresh, k, 1)
	v, how, err := c.loader.Refresh(ctx, k, c.loading(key))
	if err != nil {
		v, err = zero, c.core.fail(OpRefresh, k, err)
	}
	tell(ctx, how)
	w.end(ctx, how, err)
	return v, err
}

// reload is Refresh for a refresher that comes round every so often. It returns
// the first error.
func (c *Cache[K, V]) reload(ctx context.Context, every time.Duration, keys []K, ks []string) error {
	if c.spec.UpMany == nil {
		return c.loader.Reload(ctx, ks[0], every, c.loading(keys[0]))
	}
	return errors.Join(c.loader.ReloadMany(ctx, ks, every, c.loadingMany(keys))...)
}

// loadingMany is the load of several keys.
func (c *Cache[K, V]) loadingMany(keys []K) loader.ManyFunc[V] {
	return func(ctx context.Context, is []int) []loader.Loaded[V] {
		some := make([]K, len(is))
		for j, i := range is {
			some[j] = keys[i]
		}
		return c.restoreMany(ctx, some)
	}
}

// loading is the load of one key.
func (c *Cache[K, V]) loading(key K) loader.Func[V] {
	return func(ctx context.Context) (V, loader.Life, error) { return c.restore(ctx, key, c.up) }
}

var errNoUp = errors.New("Spec.Up is not set")
