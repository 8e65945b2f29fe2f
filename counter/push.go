package counter

import (
	"context"
	"errors"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/writebehind"
)

// A push is one of several counts to add to in as few round trips as possible.
type push[K comparable] struct {
	adding
	key     K
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

// setMany is Set and SetMany of the Cache, where counts are written behind. It returns an
// error for each.
func (c *Counter[K]) setMany(ctx context.Context, keys []K, values []int64) []error {
	errs := make([]error, len(keys))
	if !c.spec.DownValues {
		for i := range errs {
			errs[i] = errNoValues
		}
		return errs
	}
	e := c.kind.Engine
	e.Start()
	var calls []*script.Call
	var sent []int // the index of each call
	for i, key := range keys {
		k, err := c.keyOf(key)
		if err != nil {
			errs[i] = err
			continue
		}
		id, token := untagged(k, true), entry.NewToken()
		calls, sent = append(calls, &script.Call{
			Script: script.SetCount, Key: k, More: []string{e.Keys(e.Bucket(id)).Pending},
			Args: []any{token[:], c.keep, decimal(values[i]), writebehind.Field(id)},
		}), append(sent, i)
	}
	c.kind.Send(ctx, calls...)
	for j, call := range calls {
		errs[sent[j]] = writebehind.Outcome(call.Err)
	}
	return errs
}

var errNoValues = errors.New("Spec.Down persists differences only: have it write Flush.Values too, and set Spec.DownValues")
