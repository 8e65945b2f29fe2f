package cachex

import (
	"context"
	"strconv"

	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/kind"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
)

// carry gives a kind what it needs of its cache, of which render renders the keys.
func carry[K comparable](c *core, k *kind.Kind[K], render func(K) (string, error)) {
	c.drainKind = func(ctx context.Context, closing bool) error {
		if k.Drain == nil {
			return nil
		}
		return k.Drain(ctx, closing)
	}
	k.Fail = c.fail
	k.Send = func(ctx context.Context, calls ...*script.Call) { c.loads.Send(ctx, calls...) }
	k.Spawn = c.loads.Spawn
	k.Enter = func(ctx context.Context, op string, key K) (*kind.Call, error) {
		// The key first: KeyFunc is the user's, and might not come back.
		k, bad := render(key)
		k, err := c.enter(ctx, op, k, bad)
		if err != nil {
			return nil, err
		}
		call := &kind.Call{Key: k, ID: k}
		if c.engine != nil {
			call.ID = untagged(k)
		}
		call.End = func(error) error { c.calls.leave(); return nil } // should the Observer panic
		ctx, w := c.begin(ctx, op, k, 1)
		call.Ctx = ctx
		call.End = func(err error) error {
			defer c.calls.leave()
			if err != nil {
				err = c.fail(op, k, err)
			}
			w.end(ctx, 0, err)
			return err
		}
		return call, nil
	}
}

// setBehindBy is setBehind of a kind.
func setBehindBy[K comparable](ctx context.Context, c *core, k *kind.Kind[K], keys []K, counts []int64, render func(K) (string, error)) []error {
	errs := k.SetMany(ctx, keys, counts)
	for _, key := range keys {
		if k, err := render(key); err == nil {
			c.loads.Forget(k)
		}
	}
	return errs
}

// persistKind has a kind persist the batch b, whose ids are those.
func persistKind[K comparable](ctx context.Context, k *kind.Kind[K], template *key.Template[K], b ledger.Batch, ids []string) error {
	deltas, totals := make(map[K]int64, len(b.Deltas)), make(map[K]int64)
	for _, id := range ids {
		key, err := template.Parse(id)
		if err != nil {
			return err
		}
		if total, ok := b.Values[id]; ok {
			totals[key], _ = strconv.ParseInt(string(total), 10, 64) // the engine has parsed it
		} else {
			deltas[key] = b.Deltas[id]
		}
	}
	return k.Persist(ctx, b, deltas, totals)
}
