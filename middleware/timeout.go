package middleware

import (
	"context"
	"errors"
	"time"

	"github.com/cachex-go/cachex/internal/errs"
)

// Timeout gives f a ctx that ends after d. If the caller's ctx ends sooner,
// Timeout has no effect.
//
// If f fails after d has passed, the error is context.DeadlineExceeded and
// names d; the error of f is in its chain. ErrNotFound is a result, and is
// returned unchanged. A value that comes late is returned too, since it is more
// useful than an error.
//
// Timeout waits for f. If f respects its ctx, the caller gets its answer after
// d; a Cached does so, whatever is below it. If f ignores its ctx, the caller
// waits until f returns. Abandoning f would be worse: an f that hangs would
// leave one more goroutine at each call, and nothing here could wait for them.
func Timeout[K comparable, V any](d time.Duration) Middleware[K, V] {
	if d <= 0 {
		panicf("Timeout", "d is %v, must be positive", d)
	}
	return func(f Func[K, V]) Func[K, V] {
		mustNotBeNil("Timeout", "f", f)
		// One value serves all calls. It belongs to this f alone, so that the
		// cause of f's ctx tells this Timeout from another one around it.
		over := &timeoutError{after: d}
		return func(ctx context.Context, key K) (V, error) {
			if end, ok := ctx.Deadline(); ok && time.Until(end) <= d {
				return f(ctx, key)
			}
			ctx, cancel := context.WithTimeoutCause(ctx, d, over)
			defer cancel()
			v, err := f(ctx, key)
			if err != nil && ended(ctx, over) && !errors.Is(err, errs.ErrNotFound) {
				err = failed("timeout", key, &timeoutError{d, err})
			}
			return v, err
		}
	}
}

// ended reports whether the deadline of ctx has passed, and nothing else has
// ended ctx. The deadline of a connection is derived from the ctx, and
// may pass first.
func ended(ctx context.Context, over error) bool {
	if ctx.Err() != nil {
		return context.Cause(ctx) == over
	}
	end, _ := ctx.Deadline()
	return !time.Now().Before(end)
}

type timeoutError struct {
	after time.Duration
	err   error // of f; nil in the cause of a ctx
}

// Error reports the time limit, and the error of f.
func (e *timeoutError) Error() string {
	text := "no answer within " + e.after.String()
	if e.err == nil || e.err == context.DeadlineExceeded || e.err.Error() == text {
		return text
	}
	return text + ": " + errs.Text(e.err)
}

// Unwrap returns context.DeadlineExceeded, and the error of f if it is not nil.
func (e *timeoutError) Unwrap() []error {
	if e.err == nil {
		return []error{context.DeadlineExceeded}
	}
	return []error{context.DeadlineExceeded, e.err}
}
