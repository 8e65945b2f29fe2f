package ledger

import "context"

// NewContext returns a ctx that knows the batch that is being persisted.
func NewContext(ctx context.Context, b Batch) context.Context {
	return context.WithValue(ctx, batchKey{}, b)
}

// FromContext returns the batch that is being persisted under ctx, for Ledger.Once, and
// reports whether there is one. With cachex.Spec.WriteBehind, DownMany is given a batch
// of just its values, and Down one of just its value.
func FromContext(ctx context.Context) (Batch, bool) {
	b, ok := ctx.Value(batchKey{}).(Batch)
	return b, ok
}

type batchKey struct{}
