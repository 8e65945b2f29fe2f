package middleware

import (
	"context"
	"errors"
)

// Gate is the part of a gate that Once needs. Do calls f once before it
// returns, and returns its error; or it does not call f and returns an error
// that says why. *gate.Gate implements it.
type Gate[K comparable] interface {
	Do(ctx context.Context, key K, f func(context.Context) error) error
}

// Once calls f through gate. If the gate is open for the key, Once returns the
// result of f, otherwise the error of the gate. Callers at a closed gate get no
// value; if they need one, put a Cached above.
//
// The gate decides what an error or a panic of f does to it. Only the type
// argument V has to be written, as in Once[User](gate).
func Once[V any, K comparable](gate Gate[K]) Middleware[K, V] {
	mustNotBeNil("Once", "gate", gate)
	return func(f Func[K, V]) Func[K, V] {
		mustNotBeNil("Once", "f", f)
		return func(ctx context.Context, key K) (v V, err error) {
			called := false
			err = gate.Do(ctx, key, func(ctx context.Context) (err error) {
				called = true
				v, err = f(ctx, key)
				return err
			})
			if err == nil && !called {
				err = failed("once", key, errNotCalled)
			}
			return v, err
		}
	}
}

var errNotCalled = errors.New("the gate returned nil without calling the function")
