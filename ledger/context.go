package ledger

import "context"

// NewContext returns a ctx that knows the batch that is being persisted.
func NewContext(ctx context.Context, b Batch) context.Context {
	return context.WithValue(ctx, batchKey{}, b)
}

// FromContext returns the batch that a function persists whose ctx this is, and whether
// it does. A cachex.Spec.DownMany that is called behind gets one, for Ledger.Once.
func FromContext(ctx context.Context) (Batch, bool) {
	b, ok := ctx.Value(batchKey{}).(Batch)
	return b, ok
}

type batchKey struct{}
