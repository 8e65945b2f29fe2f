package middleware

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cachex-go/cachex/internal/errs"
)

// RetryOptions describe a Retry.
type RetryOptions struct {
	// Attempts is the maximum number of calls of f, including the first.
	// Defaults to 3.
	Attempts int

	// Base is the longest pause before the second attempt. It doubles with each
	// further attempt. Defaults to 100 ms.
	Base time.Duration

	// Max is the longest pause before any attempt. Defaults to 10 s, or to Base
	// if that is longer.
	Max time.Duration

	// If reports whether to retry after an error. It must be safe for
	// concurrent use. Defaults to all errors except permanent ones:
	// loader.ErrNotFound, loader.ErrClosed, loader.ErrReentrant and ErrOpen.
	If func(err error) bool
}

// Retry calls f again after an error. It stops when f returns nil, after
// Attempts, when If reports false, or when ctx ends. Before each further
// attempt it pauses for a random time, uniformly distributed from 0 to a bound
// that doubles: the "full jitter" of Brooker, Exponential Backoff And Jitter,
// AWS Architecture Blog, 2015. It does not begin a pause that would outlast the
// deadline of ctx.
//
// If the call was not repeated, Retry returns the error of f unchanged. Otherwise
// the text shows the last error, and errors.Is and errors.As find the error of
// every attempt, and the cause of the end of ctx if that ended a pause.
//
// If a failed call may have had an effect, f must tolerate being called again.
func Retry[K comparable, V any](o RetryOptions) Middleware[K, V] {
	o.Attempts = cmp.Or(o.Attempts, 3)
	o.Base = cmp.Or(o.Base, 100*time.Millisecond)
	o.Max = cmp.Or(o.Max, max(10*time.Second, o.Base))
	if o.If == nil {
		o.If = transient
	}
	switch {
	case o.Attempts < 0:
		panicf("Retry", "RetryOptions.Attempts is %d, must not be negative", o.Attempts)
	case o.Base < 0:
		panicf("Retry", "RetryOptions.Base is %v, must not be negative", o.Base)
	case o.Max < o.Base:
		panicf("Retry", "RetryOptions.Max is %v, must be at least Base, which is %v", o.Max, o.Base)
	}
	return func(f Func[K, V]) Func[K, V] {
		mustNotBeNil("Retry", "f", f)
		return func(ctx context.Context, key K) (V, error) {
			v, err := f(ctx, key)
			if err == nil || o.Attempts == 1 || !o.again(ctx, err) {
				return v, err
			}
			return retry(ctx, key, f, &o, v, err)
		}
	}
}

// retry continues after a first attempt that returned v and err.
func retry[K comparable, V any](ctx context.Context, key K, f Func[K, V], o *RetryOptions, v V, err error) (V, error) {
	failures := &retryError{errs: []error{err}}
	bound := o.Base
	for {
		pause := rand.N(bound)
		if end, ok := ctx.Deadline(); ok && time.Until(end) <= pause {
			break
		}
		if !wait(ctx, pause) {
			failures.left = context.Cause(ctx)
			break
		}
		if v, err = f(ctx, key); err == nil {
			return v, nil
		}
		failures.errs = append(failures.errs, err)
		if len(failures.errs) == o.Attempts || !o.again(ctx, err) {
			break
		}
		if bound > o.Max/2 {
			bound = o.Max
		} else {
			bound *= 2
		}
	}
	if failures.left == nil && len(failures.errs) == 1 {
		return v, err
	}
	return v, failed("retry", key, failures)
}

// again reports whether to retry after err.
func (o *RetryOptions) again(ctx context.Context, err error) bool {
	return ctx.Err() == nil && o.If(err)
}

// transient is the default of RetryOptions.If.
func transient(err error) bool {
	for _, final := range []error{errs.ErrNotFound, errs.ErrClosed, errs.ErrReentrant, ErrOpen} {
		if errors.Is(err, final) {
			return false
		}
	}
	return true
}

// wait waits for d, and reports false if ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return ctx.Err() == nil // both may be ready
	case <-ctx.Done():
		return false
	}
}

type retryError struct {
	errs []error // of the attempts, at least one
	left error   // the cause of the end of ctx, if that ended a pause
}

// Error reports the number of attempts, and the last error.
func (e *retryError) Error() string {
	last := e.errs[len(e.errs)-1]
	attempts := "1 attempt failed"
	if n := len(e.errs); n > 1 {
		attempts = fmt.Sprintf("%d attempts failed, the last one", n)
	}
	if e.left != nil {
		return fmt.Sprintf("%s: %s; then, during the pause: %v", attempts, errs.Text(last), e.left)
	}
	return fmt.Sprintf("%s: %s", attempts, errs.Text(last))
}

// Unwrap returns the errors of all attempts, and the cause that ended a pause.
func (e *retryError) Unwrap() []error {
	if e.left == nil {
		return e.errs
	}
	return append(e.errs[:len(e.errs):len(e.errs)], e.left)
}
