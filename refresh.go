package cachex

import (
	"context"
	"errors"

	"github.com/cachex-go/cachex/internal/engine"
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
	box, err := c.keyed.refresh(ctx, key)
	return unbox[V](box), err
}

// refresh is Cache.Refresh of the key k in Redis, unless bad is not nil.
func (c *core) refresh(ctx context.Context, rkey string, bad error, load engine.Func) (any, error) {
	rkey, err := c.enter(ctx, OpRefresh, rkey, bad)
	if err != nil {
		setOutcome(ctx, 0)
		return nil, err
	}
	defer c.calls.exit()
	if !c.hasUp {
		setOutcome(ctx, 0)
		return nil, c.fail(OpRefresh, rkey, errNoUp)
	}
	ctx, obs := c.observe(ctx, OpRefresh, rkey, 1)
	box, outcome, err := c.engine.Refresh(ctx, rkey, load)
	if err != nil {
		box, err = nil, c.fail(OpRefresh, rkey, err)
	}
	setOutcome(ctx, Outcome(outcome))
	obs.end(ctx, Outcome(outcome), err)
	return box, err
}

var errNoUp = errors.New("Spec.Up is not set")
