package counter

import (
	"context"

	"github.com/cachex-go/cachex/internal/script"
)

// A push is one of several counts to add to, or to set, in as few round trips as
// possible.
type push[K comparable] struct {
	adding
	key     K
	total   bool   // delta is the count to be
	missing string // what a count is that is not there
	err     error
}

// push adds to many counts, restoring those that need it.
func (c *Counter[K]) push(ctx context.Context, all []*push[K]) {
	left := make([]*push[K], 0, len(all))
	for _, p := range all {
		if p.err == nil {
			left = append(left, p)
		}
	}
	for range maxRestores {
		if len(left) == 0 {
			return
		}
		calls := make([]*script.Call, len(left))
		for i, p := range left {
			calls[i] = c.adding(p.adding, p.missing)
			if p.total {
				calls[i].Script = script.SetCount
			}
		}
		c.kind.Send(ctx, calls...)
		var gone []*push[K]
		for i, p := range left {
			_, kind, err := added(calls[i])
			if p.err = err; err == nil && kind == "M" {
				p.err, gone = errGone, append(gone, p)
			}
		}
		left = c.restoreGone(ctx, gone)
	}
}

// restoreGone restores counts, and returns those that are there to be added to.
func (c *Counter[K]) restoreGone(ctx context.Context, gone []*push[K]) (back []*push[K]) {
	if c.spec.UpCounts {
		for _, p := range gone {
			_, counted, err := c.restored(ctx, p.key)
			if p.err = err; err == nil && !counted {
				back = append(back, p)
			}
		}
		return back
	}
	keys := make([]K, len(gone))
	for i, p := range gone {
		keys[i] = p.key
	}
	counts, err := c.GetMany(ctx, keys)
	for _, p := range gone {
		if _, ok := counts[p.key]; ok {
			back = append(back, p)
		} else {
			p.err = cause(err)
		}
	}
	return back
}

// setMany is Set and SetMany of the Cache, where counts are written behind.
func (c *Counter[K]) setMany(ctx context.Context, keys []K, values []int64) []error {
	all := make([]*push[K], len(keys))
	for i, key := range keys {
		all[i] = c.pushing(key, values[i])
		all[i].total, all[i].missing = true, "0"
	}
	c.push(ctx, all)
	errs := make([]error, len(keys))
	for i, p := range all {
		errs[i] = p.err
	}
	return errs
}
