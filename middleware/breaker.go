package middleware

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/cachex-go/cachex/internal/breaker"
	"github.com/cachex-go/cachex/internal/errs"
)

// ErrOpen reports that a Breaker is open, and has not called the function. The
// error also wraps an *OpenError.
var ErrOpen = errors.New("breaker is open")

// OpenError is ErrOpen with the time to wait.
type OpenError struct {
	// RetryAfter is the time until the next probe is allowed. 0 means that a
	// probe is in flight, whose result decides.
	RetryAfter time.Duration
}

// Error returns the text of the error.
func (e *OpenError) Error() string {
	if e.RetryAfter <= 0 {
		return ErrOpen.Error() + ", a probe is in flight"
	}
	return ErrOpen.Error() + ", for " + e.RetryAfter.String()
}

// Unwrap returns ErrOpen.
func (e *OpenError) Unwrap() error { return ErrOpen }

// BreakerOptions describe a Breaker.
type BreakerOptions struct {
	// Trip is the number of consecutive failures that open the breaker.
	// Defaults to 5.
	Trip int

	// Every is the time from the opening to the first probe, and from a failed
	// probe to the next one. Defaults to 1 s.
	Every time.Duration

	// Failure reports whether an error means that the function does not work.
	// It must be safe for concurrent use. Defaults to all errors except
	// loader.ErrNotFound.
	Failure func(err error) bool
}

// Breaker rejects calls while the source does not work, to spare both the
// callers and the source. It opens after Trip consecutive failures, counted
// over all keys and all functions that the Middleware wraps. While it is open,
// calls return an error that is ErrOpen at once. At intervals of Every one call
// passes as a probe. If the probe does not fail, the breaker closes, for all.
//
// A value is a success, and so is an error for which Failure reports false.
// Every other error is a failure, and so is a panic. If the ctx of a call was
// cancelled, the call counts only if it returned a value. If its deadline has
// passed, it is a failure like any other: it waited in vain. If every caller
// has a deadline, a source that hangs cannot be noticed in another way.
//
// A probe that takes longer than 10 s does not delay the next one.
func Breaker[K comparable, V any](o BreakerOptions) Middleware[K, V] {
	switch {
	case o.Trip < 0:
		panicf("Breaker", "BreakerOptions.Trip is %d, must not be negative", o.Trip)
	case o.Every < 0:
		panicf("Breaker", "BreakerOptions.Every is %v, must not be negative", o.Every)
	}
	if o.Failure == nil {
		o.Failure = func(err error) bool { return !errors.Is(err, errs.ErrNotFound) }
	}
	b := &breaker.Breaker{Options: breaker.Options{
		Trip:  cmp.Or(o.Trip, 5),
		Every: cmp.Or(o.Every, time.Second),
	}}
	return func(f Func[K, V]) Func[K, V] {
		mustNotBeNil("Breaker", "f", f)
		return func(ctx context.Context, key K) (v V, err error) {
			probes := false
			if !b.Allow() {
				if probes = b.Probe(); !probes {
					return v, failed("breaker", key, &OpenError{RetryAfter: b.Wait()})
				}
			}
			returned := false
			defer func() {
				if !returned {
					b.Failure(false)
				}
			}()
			v, err = f(ctx, key)
			switch {
			case err == nil:
				b.Success()
			case ctx.Err() == context.Canceled:
				// A probe without a result must still end, or the next one
				// would come only after 10 s.
				if probes && b.State() == breaker.HalfOpen {
					b.Failure(false)
				}
			case o.Failure(err):
				b.Failure(false)
			default:
				b.Success()
			}
			returned = true
			return v, err
		}
	}
}
