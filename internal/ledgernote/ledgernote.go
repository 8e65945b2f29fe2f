// Package ledgernote lets a ledger tell a write-behind engine, through the function of
// the user that is called in between, that a bucket has a new incarnation.
package ledgernote

import (
	"context"
	"sync/atomic"
)

type key struct{}

// With returns a ctx for the ledger, and a function that reports whether it was told.
func With(ctx context.Context) (context.Context, func() bool) {
	told := new(atomic.Bool)
	return context.WithValue(ctx, key{}, told), told.Load
}

// Tell says that the batch applied under ctx is the first of its incarnation, in a bucket
// that had other incarnations before.
func Tell(ctx context.Context) {
	if told, ok := ctx.Value(key{}).(*atomic.Bool); ok {
		told.Store(true)
	}
}
