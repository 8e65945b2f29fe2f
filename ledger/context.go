package ledger

import "context"

// NewContext returns a ctx that carries the batch being persisted.
func NewContext(ctx context.Context, b Batch) context.Context {
	return context.WithValue(ctx, batchKey{}, b)
}

// FromContext returns the batch being persisted under ctx, for Ledger.Once, and
// reports whether there is one. With cachex.Spec.WriteBehind, DownMany gets a
// batch with only its values, and Down one with only its value.
func FromContext(ctx context.Context) (Batch, bool) {
	b, ok := ctx.Value(batchKey{}).(Batch)
	return b, ok
}

type batchKey struct{}
