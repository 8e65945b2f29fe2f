package loader

import (
	"context"
	"errors"
	"sync/atomic"
)

// ErrNotModified says that the value that [Previous] returned is still right. A
// load returns it, perhaps wrapped, with the Life of a value: that value then
// lives on for so long, and is not sent again.
var ErrNotModified = errors.New("not modified")

// Previous returns the value that the load whose ctx this is will replace, and
// whether there is one. There is none if the key was absent, was deleted, or what
// it holds is too old or cannot be decoded; nor, ever, in a load of several keys.
// The value must not be changed. Safe for concurrent use.
func Previous[V any](ctx context.Context) (V, bool) {
	var zero V
	at, _ := ctx.Value(attemptKey{}).(*attempt)
	if at == nil || at.previous == nil {
		return zero, false
	}
	p, ok := at.previous()
	if !ok {
		return zero, false
	}
	v, ok := p.(V)
	return v, ok
}

// NoStore makes the load whose ctx this is one whose value is given to its
// callers and not stored. A value that was there before stays as it was. It does
// nothing if ctx is not that of a load. Safe for concurrent use.
func NoStore(ctx context.Context) {
	if at, _ := ctx.Value(attemptKey{}).(*attempt); at != nil {
		at.unstored.Store(true)
	}
}

// An attempt is what a load can learn and say by its ctx. Every load has its own,
// or one that another load asks for would take that one's for it.
type attempt struct {
	previous func() (any, bool) // nil: none
	unstored atomic.Bool
}

type attemptKey struct{}

var errNothingBefore = errors.New("load says that the value is not modified, but there was none before")
