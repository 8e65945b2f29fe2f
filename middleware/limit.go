package middleware

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"
)

// Limit runs at most n calls at once in this process, counted over all
// functions that the Middleware wraps. Further calls wait in order of arrival.
// If the ctx of a waiting call ends, the call fails with an error that wraps
// the cause.
//
// If f calls a function of this Limit, that call waits for a slot while f holds
// one. If all slots are held in this way, all calls wait until their ctx ends.
// Spec.MaxLoads of a cache also bounds loads, and recognises such calls.
func Limit[K comparable, V any](n int) Middleware[K, V] {
	if n <= 0 {
		panicf("Limit", "n is %d, must be positive", n)
	}
	places := semaphore.NewWeighted(int64(n))
	return func(f Func[K, V]) Func[K, V] {
		mustNotBeNil("Limit", "f", f)
		return func(ctx context.Context, key K) (V, error) {
			if places.Acquire(ctx, 1) != nil {
				var zero V
				return zero, failed("limit", key, fmt.Errorf("all %d slots were busy: %w", n, context.Cause(ctx)))
			}
			defer places.Release(1)
			return f(ctx, key)
		}
	}
}
