package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// ErrNotModified means that the value that [Previous] returned is still valid.
// A load returns it, perhaps wrapped, with the new Life of that value. The
// value is then kept for that long, and is not sent again.
var ErrNotModified = errors.New("not modified")

// Previous returns a pointer to the value that the load with this ctx will
// replace. It returns false if the key was absent or deleted, or if its value
// is too old or cannot be decoded. In a load of several keys it always returns
// false. The value must not be modified. Safe for concurrent use.
func Previous(ctx context.Context) (box any, ok bool) {
	state, _ := ctx.Value(loadStateKey{}).(*loadState)
	if state == nil || state.previous == nil {
		return nil, false
	}
	if box, ok = state.previous(); !ok {
		return nil, false
	}
	return box, true
}

// NoStore makes the load with this ctx return its value to its callers without
// storing it. A previous value stays as it is. If ctx is not the ctx of a load,
// NoStore does nothing. Safe for concurrent use.
func NoStore(ctx context.Context) {
	if state, _ := ctx.Value(loadStateKey{}).(*loadState); state != nil {
		state.unstored.Store(true)
	}
}

// A Lease is the lease of a load.
type Lease struct {
	Token Token
	Entry []byte    // the entry on which it was granted; nil if there was no entry
	Sent  time.Time // when it was requested
}

// LeaseFromContext returns the lease on key of the load, or of the down of
// WriteThrough, with this ctx. If Redis does not answer, there is no lease, and
// it returns false. It is for loads that store under the lease in their own
// way; the result of such a load is not stored again. Safe for concurrent use.
func LeaseFromContext(ctx context.Context, key string) (Lease, bool) {
	state, _ := ctx.Value(loadStateKey{}).(*loadState)
	if state == nil || state.lease == nil {
		return Lease{}, false
	}
	return state.lease(key)
}

// MarkStored declares that from now on the load with this ctx stores its value
// itself, under its lease. The load does not answer callers that join later,
// since the stored value may have been written to since. MarkStored may be
// called again; the last call counts. If ctx is not the ctx of a load, it does
// nothing. Safe for concurrent use.
func MarkStored(ctx context.Context) {
	if state, _ := ctx.Value(loadStateKey{}).(*loadState); state != nil && state.markStored != nil {
		state.markStored()
	}
}

// loadState is the state that a load reads and sets through its ctx. Every load
// has its own: a nested load must not mistake the outer load's state for its
// own.
type loadState struct {
	// previous returns a pointer to the previous value, or false; nil: no such
	// value.
	previous   func() (any, bool)
	lease      func(key string) (Lease, bool)
	unstored   atomic.Bool
	markStored func() // nil: no caller can join
	// waitersAtStore is the number of waiters of each flight at the last call
	// of markStored.
	waitersAtStore atomic.Pointer[[]int]
}

type loadStateKey struct{}

var errNothingBefore = errors.New("load reports not modified without a previous value")
