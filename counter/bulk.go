package counter

import (
	"context"
	"errors"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/writebehind"
)

// bulkOp is an addition to one of several counts, which share as few round
// trips as possible.
type bulkOp[K comparable] struct {
	addRequest
	key       K
	onMissing string // the value of a missing count
	err       error
}

// addBulk adds to many counts, and restores missing ones.
func (c *Counter[K]) addBulk(ctx context.Context, all []*bulkOp[K]) {
	left := make([]*bulkOp[K], 0, len(all))
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
			calls[i] = c.addCall(p.addRequest, p.onMissing)
		}
		c.kind.Send(ctx, calls...)
		var gone []*bulkOp[K]
		for i, p := range left {
			_, status, err := parseAdded(calls[i])
			if p.err = err; err == nil && status == "M" {
				p.err, gone = errGone, append(gone, p)
			}
		}
		left = c.restoreGone(ctx, gone)
	}
}

// restoreGone restores counts, and returns those that can be added to.
func (c *Counter[K]) restoreGone(ctx context.Context, gone []*bulkOp[K]) (back []*bulkOp[K]) {
	if c.spec.UpCounts {
		for _, p := range gone {
			_, counted, err := c.restoreMissing(ctx, p.key)
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

// setMany implements Set and SetMany of the Cache, with Spec.Down. It returns
// an error for each key.
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
