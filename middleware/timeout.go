package middleware

import (
	"context"
	"errors"
	"time"

	"github.com/cachex-go/cachex/internal/errs"
)

// Timeout gives f a ctx that ends after d. Where the caller's own ends sooner, it
// does nothing.
//
// The error of an f that has failed once d was over is context.DeadlineExceeded and
// says how long d is; what f returned is in its chain. ErrNotFound is an answer,
// and comes through as it is, and so does a value that comes late: it is there,
// and nobody is served better by an error in its place.
//
// f is waited for. The caller is answered after d if f heeds its ctx, as a Cached
// does whatever is below it, and when f returns if it does not: a goroutine that
// ran on unseen, for an f that hangs one more at each call, is worse, and there is
// nobody here who could wait for it.
func Timeout[K comparable, V any](d time.Duration) Middleware[K, V] {
	if d <= 0 {
		refuse("Timeout", "d is %v, must be positive", d)
	}
	return func(f Func[K, V]) Func[K, V] {
		given("Timeout", "f", f)
		// One for all calls. It is of this f alone, so that f's ctx tells our end
		// from that of another Timeout around us.
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

// ended reports whether the time of ctx is over, and nothing else has ended it. The
// deadline of a connection is made of that of the ctx, and may strike first.
func ended(ctx context.Context, over error) bool {
	if ctx.Err() != nil {
		return context.Cause(ctx) == over
	}
	end, _ := ctx.Deadline()
	return !time.Now().Before(end)
}

type timeoutError struct {
	after time.Duration
	err   error // of f, nil in a ctx
}

// Error says how long there was no answer, and what f returned of it.
func (e *timeoutError) Error() string {
	text := "no answer within " + e.after.String()
	if e.err == nil || e.err == context.DeadlineExceeded || e.err.Error() == text {
		return text
	}
	return text + ": " + errs.Text(e.err)
}

// Unwrap returns context.DeadlineExceeded, and the error of f if there is one.
func (e *timeoutError) Unwrap() []error {
	if e.err == nil {
		return []error{context.DeadlineExceeded}
	}
	return []error{context.DeadlineExceeded, e.err}
}
