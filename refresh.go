package cachex

import (
	"context"
	"errors"

	"github.com/cachex-go/cachex/internal/engine"
)

// Refresh loads the value of key now, whatever is in Redis, stores it and
// returns it. Meanwhile, readers are served the previous value.
//
// The load begins after the call. A load in flight, in any process, continues
// for its waiters and is not stored. Callers in this process that arrive during
// a Refresh share the next load: at most one call of Up runs for them at a
// time.
//
// The error is an *Error: an error of Up, including ErrNotFound, or the cause
// of the end of ctx. The previous value then stays in Redis, except after
// ErrNotFound. If Redis fails, Up is still called, its result is not stored,
// and Stats counts the bypass.
func (c *Cache[K, V]) Refresh(ctx context.Context, key K) (V, error) {
	box, err := c.keyed.refresh(ctx, key)
	return unbox[V](box), err
}

// refresh implements Cache.Refresh for a key in Redis. If bad is not nil, it is
// the error of the call.
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
