package middleware

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/cachex-go/cachex/internal/breaker"
	"github.com/cachex-go/cachex/internal/errs"
)

// ErrOpen says that a Breaker is open, and has not called the function. The error
// has an *OpenError too.
var ErrOpen = errors.New("breaker is open")

// An OpenError is ErrOpen with the time to wait.
type OpenError struct {
	// RetryAfter is how long it is until the next call can be let through. 0 means
	// that one is under way, on whose end it depends.
	RetryAfter time.Duration
}

// Error returns the text of the error.
func (e *OpenError) Error() string {
	if e.RetryAfter <= 0 {
		return ErrOpen.Error() + ", one call is under way to find out more"
	}
	return ErrOpen.Error() + ", for " + e.RetryAfter.String()
}

// Unwrap returns ErrOpen.
func (e *OpenError) Unwrap() error { return ErrOpen }

// BreakerOptions describe a Breaker.
type BreakerOptions struct {
	// Trip is how many failures in a row open the breaker. Defaults to 5.
	Trip int

	// Every is how long after it opened one call is let through, and then another
	// one after each that failed. Defaults to 1 s.
	Every time.Duration

	// Failure reports whether an error says that the function does not work. It must
	// be safe for concurrent use. Defaults to all errors but ErrNotFound of package
	// loader.
	Failure func(err error) bool
}

// Breaker spares callers, and a source that does not work, calls that would fail.
// After Trip failures in a row, of all the functions that the Middleware wraps and
// whatever their keys, it is open: calls return an error that is ErrOpen at once.
// Every so long one call is let through. If it does not fail, the breaker is
// closed, for all.
//
// What counts: a value, and an error that Failure reports false for, is a success.
// Every other error is a failure, and so is a panic. A call whose ctx was cancelled
// says nothing, unless it returned a value; but one whose deadline has passed is a
// failure like any other: it has waited in vain, and where every caller has a
// deadline, a source that hangs is noticed in no other way.
//
// A call that is let through and takes longer than 10 s does not keep the next one
// from being let through.
func Breaker[K comparable, V any](o BreakerOptions) Middleware[K, V] {
	switch {
	case o.Trip < 0:
		refuse("Breaker", "BreakerOptions.Trip is %d, must not be negative", o.Trip)
	case o.Every < 0:
		refuse("Breaker", "BreakerOptions.Every is %v, must not be negative", o.Every)
	}
	if o.Failure == nil {
		o.Failure = func(err error) bool { return !errors.Is(err, errs.ErrNotFound) }
	}
	b := &breaker.Breaker{Options: breaker.Options{
		Trip:  cmp.Or(o.Trip, 5),
		Every: cmp.Or(o.Every, time.Second),
	}}
	return func(f Func[K, V]) Func[K, V] {
		given("Breaker", "f", f)
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
				// A probe that says nothing must end all the same, or there would be
				// no other one for 10 s.
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
