package cachex

import (
	"context"
	"strconv"

	"github.com/cachex-go/cachex/internal/kind"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
)

// attachKind connects the kind with its cache.
func (c *keyed[K]) attachKind() {
	c.core.drainKind = func(ctx context.Context, closing bool) error {
		if c.kind.Drain == nil {
			return nil
		}
		return c.kind.Drain(ctx, closing)
	}
	c.kind.Fail = c.core.fail
	c.kind.Send = func(ctx context.Context, calls ...*script.Call) { c.core.engine.Exec(ctx, calls...) }
	c.kind.Spawn = c.core.engine.Spawn
	c.kind.Enter = func(ctx context.Context, op string, key K) (*kind.Call, error) {
		// Render first: KeyFunc is user code and may not return.
		rkey, bad := c.render(key)
		return c.core.enterKindCall(ctx, op, rkey, bad)
	}
}

// enterKindCall begins a call on a kind for a key in Redis. If bad is not nil,
// it is the error of the call.
func (c *core) enterKindCall(ctx context.Context, op, rkey string, bad error) (*kind.Call, error) {
	rkey, err := c.enter(ctx, op, rkey, bad)
	if err != nil {
		return nil, err
	}
	call := &kind.Call{Key: rkey, ID: rkey}
	if c.writeBehind != nil {
		call.ID = withoutTag(rkey)
	}
	call.End = func(error) error { c.calls.exit(); return nil } // in case the Observer panics
	ctx, obs := c.observe(ctx, op, rkey, 1)
	call.Ctx = ctx
	call.End = func(err error) error {
		defer c.calls.exit()
		if err != nil {
			err = c.fail(op, rkey, err)
		}
		obs.end(ctx, 0, err)
		return err
	}
	return call, nil
}

// setCounts implements Set and SetMany of a kind with Spec.WriteBehind.
func (c *keyed[K]) setCounts(ctx context.Context, keys []K, boxes []any) []error {
	counts := make([]int64, len(keys))
	for i, box := range boxes {
		counts[i] = *box.(*int64) // the value type of every kind
	}
	errs := c.kind.SetMany(ctx, keys, counts)
	for _, key := range keys {
		if rkey, err := c.render(key); err == nil {
			c.core.engine.Forget(rkey)
		}
	}
	return errs
}

// persistCounts passes the ids of batch b to the kind.
func (c *keyed[K]) persistCounts(ctx context.Context, b ledger.Batch, ids []string) error {
	deltas, totals := make(map[K]int64, len(b.Deltas)), make(map[K]int64)
	for _, id := range ids {
		key, err := c.template.Parse(id)
		if err != nil {
			return err
		}
		if total, ok := b.Values[id]; ok {
			totals[key], _ = strconv.ParseInt(string(total), 10, 64) // the engine has validated it
		} else {
			deltas[key] = b.Deltas[id]
		}
	}
	return c.kind.Persist(ctx, b, deltas, totals)
}
