package middleware

import (
	"context"
	"errors"
)

// A Gate is what Once needs of one: Do calls f, once and before it returns, and
// returns its error, or does not call f and returns an error that says why.
// *gate.Gate has the method.
type Gate[K comparable] interface {
	Do(ctx context.Context, key K, f func(context.Context) error) error
}

// Once calls f through gate: while that is open for the key, it returns what f
// does, and otherwise the gate's error. There is no value for who comes too late;
// whoever has to have one puts a Cached above.
//
// It is the gate that decides what an error or a panic of f does to it. V is the
// only type argument that has to be written, as in Once[User](gate).
func Once[V any, K comparable](gate Gate[K]) Middleware[K, V] {
	given("Once", "gate", gate)
	return func(f Func[K, V]) Func[K, V] {
		given("Once", "f", f)
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

var errNotCalled = errors.New("the gate has not called the function, and says nothing of it")
