package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// ErrNotModified says that the value that [Previous] returned is still right. A
// load returns it, perhaps wrapped, with the Life of a value: that value then
// lives on for so long, and is not sent again.
var ErrNotModified = errors.New("not modified")

// Previous returns a pointer to the value that the load with this ctx will
// replace, and whether there is one. There is none if the key was absent, was
// deleted, or holds a value that is too old or cannot be decoded; nor, ever, in a
// load of several keys. The value must not be changed. Safe for concurrent use.
func Previous(ctx context.Context) (box any, ok bool) {
	at, _ := ctx.Value(attemptKey{}).(*attempt)
	if at == nil || at.previous == nil {
		return nil, false
	}
	if box, ok = at.previous(); !ok {
		return nil, false
	}
	return box, true
}

// NoStore makes the load whose ctx this is one whose value is given to its
// callers and not stored. A value that was there before stays as it was. It does
// nothing if ctx is not that of a load. Safe for concurrent use.
func NoStore(ctx context.Context) {
	if at, _ := ctx.Value(attemptKey{}).(*attempt); at != nil {
		at.unstored.Store(true)
	}
}

// A Lease is one that a load has.
type Lease struct {
	Token Token
	Entry []byte    // on which it was granted; nil if there was none
	Sent  time.Time // when it was asked for
}

// LeaseOf returns the lease on key of the load, or of the down of WriteThrough, whose
// ctx this is, and whether it has one: where Redis does not answer it has not. It is
// for a load that stores under the lease by itself, in a way of its own; what it
// returns is then not stored again. Safe for concurrent use.
func LeaseOf(ctx context.Context, key string) (Lease, bool) {
	at, _ := ctx.Value(attemptKey{}).(*attempt)
	if at == nil || at.lease == nil {
		return Lease{}, false
	}
	return at.lease(key)
}

// Storing says that the load whose ctx this is stores by itself, under its lease, from
// now on. Who joins it later is not answered by it: what it has stored may have been
// written to since. It may be called again, and the last call counts. It does nothing
// if ctx is not that of a load. Safe for concurrent use.
func Storing(ctx context.Context) {
	if at, _ := ctx.Value(attemptKey{}).(*attempt); at != nil && at.storing != nil {
		at.storing()
	}
}

// An attempt is what a load can learn and say by its ctx. Every load has its own,
// or one that another load asks for would take that one's for it.
type attempt struct {
	previous func() (any, bool) // a pointer to a value, and whether there is one; nil: none
	lease    func(key string) (Lease, bool)
	unstored atomic.Bool
	storing  func()                // nil: nobody joins
	joined   atomic.Pointer[[]int] // how many had joined each flight at the last call of storing
}

type attemptKey struct{}

var errNothingBefore = errors.New("load says that the value is not modified, but there was none before")
