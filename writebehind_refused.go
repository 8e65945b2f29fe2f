package cachex

import (
	"context"
	"errors"

	"github.com/cachex-go/cachex/writebehind"
)

var errNoWriteBehind = errors.New("Spec.WriteBehind is not set")

// Refused returns the values that Down refused for good with a
// *ledger.RefusedError, in no particular order. It includes values put aside
// because Redis had gone back in time. An ID is the key as Spec.Key renders it,
// and a Value is the output of the codec. It needs Spec.WriteBehind. The error
// is an *Error; the list is then incomplete.
func (c *Cache[K, V]) Refused(ctx context.Context) ([]writebehind.Refused, error) {
	return c.keyed.core.refused(ctx)
}

func (c *core) refused(ctx context.Context) ([]writebehind.Refused, error) {
	if err := c.admitWriteBehind(ctx, "refused"); err != nil {
		return nil, err
	}
	defer c.calls.exit()
	all, err := c.writeBehind.Refused(ctx)
	if err != nil {
		err = c.fail("refused", "", err)
	}
	return all, err
}

// Retry makes the refused values of ids pending again, with ids as Refused
// returns them. Without ids, it retries all. It returns the number of values. A
// value older than a pending one is dropped. It needs Spec.WriteBehind. The
// error is an *Error, and Retry may be called again.
func (c *Cache[K, V]) Retry(ctx context.Context, ids ...string) (int, error) {
	return c.keyed.core.retry(ctx, ids)
}

func (c *core) retry(ctx context.Context, ids []string) (int, error) {
	if err := c.admitWriteBehind(ctx, "retry"); err != nil {
		return 0, err
	}
	defer c.calls.exit()
	n, err := c.writeBehind.Retry(ctx, ids...)
	if err != nil {
		err = c.fail("retry", "", err)
	}
	return n, err
}

// admitWriteBehind is admit for calls that need Spec.WriteBehind.
func (c *core) admitWriteBehind(ctx context.Context, op string) error {
	if c.writeBehind == nil {
		return c.fail(op, "", errNoWriteBehind)
	}
	return c.admit(ctx, op)
}
