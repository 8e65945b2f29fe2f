package writebehind

import (
	"context"
	"fmt"
	"strings"

	"github.com/cachex-go/cachex/internal/script"
)

// A Refused is what was put aside of an id, since the database had refused it for good
// or Redis had gone back in time.
type Refused struct {
	ID    string
	Value string // the delta, in decimal, or the value

	field string
	at    int // bucket
}

// Refused returns all that was put aside, in no order. Of an id of a Sum there may be
// more than one, where what was put aside has no sum in int64. With an error, of one of
// the buckets, it returns what the others have.
func (e *Engine) Refused(ctx context.Context) ([]Refused, error) {
	err := e.open(ctx)
	var all []Refused
	if err == nil {
		all, err = e.refused(ctx)
	}
	if err != nil {
		return all, fmt.Errorf("cachex: refused %s: %w", e.o.Name, err)
	}
	return all, nil
}

// Retry makes pending again what was put aside of ids, all of it if there are none, and
// returns how much it was. Where Merge is Last, what has a newer value pending is
// dropped instead. It may be called again after an error, and then goes on.
func (e *Engine) Retry(ctx context.Context, ids ...string) (int, error) {
	err := e.open(ctx)
	n := 0
	if err == nil {
		e.Start()
		n, err = e.retry(ctx, ids)
	}
	if err != nil {
		return n, fmt.Errorf("cachex: retry %s: %w", e.o.Name, err)
	}
	return n, nil
}

func (e *Engine) refused(ctx context.Context) ([]Refused, error) {
	calls := make([]*script.Call, len(e.buckets))
	for b := range calls {
		calls[b] = e.on(script.ListRefused, b)
	}
	if err := e.pipeline(ctx, calls); err != nil {
		return nil, err
	}
	var all []Refused
	var failed error
	for b, c := range calls {
		if c.Err != nil {
			failed = c.Err
			continue
		}
		list, _ := c.Reply.([]any)
		for k := 0; k+1 < len(list); k += 2 {
			field, _ := list[k].(string)
			value, _ := list[k+1].(string)
			id := field
			if strings.HasPrefix(field, "#") { // token:field
				_, id, _ = strings.Cut(field, ":")
			}
			all = append(all, Refused{ID: unfield(id), Value: value, field: field, at: b})
		}
	}
	return all, failed
}

func (e *Engine) retry(ctx context.Context, ids []string) (int, error) {
	all, err := e.refused(ctx)
	if err != nil {
		return 0, err
	}
	wanted := make(map[string]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	n := 0
	for _, r := range all {
		if len(ids) > 0 && !wanted[r.ID] {
			continue
		}
		done, err := e.call(ctx, script.RetryRefused, r.at, e.o.Merge.arg(), r.field, Field(r.ID))
		if err != nil {
			return n, fmt.Errorf("id %s: %w", printable(r.ID), err)
		}
		if done == int64(1) {
			n++
		}
	}
	return n, nil
}
