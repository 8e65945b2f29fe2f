package writebehind

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cachex-go/cachex/internal/script"
)

// Refused is a delta or value that was put aside. The database had refused its
// id for good, or Redis had gone back in time.
type Refused struct {
	ID    string
	Value string // the delta in decimal, or the value

	field string
	at    int // the number of the bucket
}

// Refused returns everything that was put aside, in no particular order. An id
// of a Sum appears more than once if the sum of its deltas leaves int64. If one
// bucket fails, Refused returns its error and the elements of the other
// buckets.
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

// Retry makes the deltas and values of ids that were put aside pending again,
// and returns their number. Without ids, it retries everything that was put
// aside. If Merge is Last and an id has a newer value pending, the older value
// is dropped. After an error, call Retry again to go on.
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

// AsideError says that a Flush or a Close has persisted everything except some
// ids, which are not lost.
type AsideError struct {
	// Refused is how many ids the database has refused for good meanwhile.
	// [Engine.Refused] returns them, and [Engine.Retry] tries them again.
	Refused int64

	// Unread is how many ids wait for another process, because this one cannot
	// read them.
	Unread int64
}

// newAsideError returns nil if no id was refused and none is unread. refused is
// how many ids this process has put aside meanwhile: an id that was aside
// before may be put aside again.
func newAsideError(before, after []findings, refused int64) error {
	e, put := AsideError{}, int64(0)
	for b, f := range after {
		put += max(f.refused-before[b].refused, 0)
		e.Unread += f.unread
	}
	if e.Refused = max(put, refused); e == (AsideError{}) {
		return nil
	}
	return &e
}

// Error tells both numbers.
func (e *AsideError) Error() string {
	return fmt.Sprintf("%d ids were refused by the database and put aside, %d ids wait for a process that can read them", e.Refused, e.Unread)
}

func (e *Engine) refused(ctx context.Context) ([]Refused, error) {
	cursors := make(map[int]string, len(e.buckets)) // of the buckets that have more pages
	fields := make([]map[string]string, len(e.buckets))
	for b := range e.buckets {
		cursors[b], fields[b] = "0", map[string]string{} // a field may be on two pages
	}
	var failed error
	for len(cursors) > 0 {
		at := slices.Sorted(maps.Keys(cursors))
		calls := make([]*script.Call, len(at))
		for i, b := range at {
			calls[i] = e.on(script.ListRefused, b, cursors[b])
		}
		if err := e.pipeline(ctx, calls); err != nil {
			return listed(fields), err
		}
		for i, b := range at {
			r := read(calls[i].Reply, calls[i].Err)
			before, next, page := cursors[b], r.text(), r.list()
			switch {
			case r.err != nil:
				failed = r.err
				delete(cursors, b)
			case next == "0":
				delete(cursors, b)
			case next == before:
				failed = errCursor
				delete(cursors, b)
			default:
				cursors[b] = next
			}
			maps.Insert(fields[b], pairs(page))
		}
	}
	return listed(fields), failed
}

// errCursor ends a walk that would never end. No server returns such a cursor.
var errCursor = errors.New("Redis has returned the cursor that it was given")

// listed returns the elements of the fields of each bucket.
func listed(fields []map[string]string) (all []Refused) {
	for b, some := range fields {
		for field, value := range some {
			id, values := field, []string{value}
			if strings.HasPrefix(field, "#") { // a list
				_, id, _ = strings.Cut(field, ":")
				values = strings.Split(value, " ")
			}
			for _, v := range values {
				all = append(all, Refused{ID: unfield(id), Value: v, field: field, at: b})
			}
		}
	}
	return all
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
