package middleware

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"
)

// Limit runs at most n calls at once in this process, of all the functions that
// the Middleware wraps. The others wait, first come, first served, and leave on
// their own ctx, with an error that wraps the cause of its end.
//
// A call that f makes to what this Limit wraps waits for a place while it has one:
// if every place is taken so, all of them wait until their ctx ends. Spec.MaxLoads
// of a cache bounds loads too and knows such calls.
func Limit[K comparable, V any](n int) Middleware[K, V] {
	if n <= 0 {
		refuse("Limit", "n is %d, must be positive", n)
	}
	places := semaphore.NewWeighted(int64(n))
	return func(f Func[K, V]) Func[K, V] {
		given("Limit", "f", f)
		return func(ctx context.Context, key K) (V, error) {
			if places.Acquire(ctx, 1) != nil {
				var zero V
				return zero, failed("limit", key, fmt.Errorf("no place among %d was free in time: %w", n, context.Cause(ctx)))
			}
			defer places.Release(1)
			return f(ctx, key)
		}
	}
}
