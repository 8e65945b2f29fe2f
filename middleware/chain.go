package middleware

import (
	"context"
	"fmt"
	"reflect"
	"slices"
)

// Func is the type of wrapped functions: Spec.Up, Cache.Get, the result of
// Cache.Wrap, or any other function of a key.
type Func[K comparable, V any] = func(context.Context, K) (V, error)

// Middleware wraps a Func. You can write your own, as an ordinary function; it
// must call the wrapped Func with the ctx that it received, or with one derived
// from it.
type Middleware[K comparable, V any] = func(Func[K, V]) Func[K, V]

// Chain returns f wrapped by mws. The first listed is outermost. Without mws it
// returns f. It panics if f, one of mws, or the result of one is nil.
func Chain[K comparable, V any](f Func[K, V], mws ...Middleware[K, V]) Func[K, V] {
	mustNotBeNil("Chain", "f", f)
	for i, mw := range slices.Backward(mws) {
		if mw == nil {
			panicf("Chain", "middleware %d of %d is nil", i+1, len(mws))
		}
		if f = mw(f); f == nil {
			panicf("Chain", "middleware %d of %d returned nil", i+1, len(mws))
		}
	}
	return f
}

// panicf panics with a description of a wrong argument of the function name.
func panicf(name, format string, args ...any) {
	panic(fmt.Sprintf("cachex: middleware.%s: %s", name, fmt.Sprintf(format, args...)))
}

// mustNotBeNil panics if v, the argument arg of the function name, is nil, or is an
// interface that holds a nil pointer: for example a package variable with a
// cache that has not been made yet.
func mustNotBeNil(name, arg string, v any) {
	if r := reflect.ValueOf(v); !r.IsValid() || (r.Kind() == reflect.Pointer || r.Kind() == reflect.Func) && r.IsNil() {
		panicf(name, "%s is nil", arg)
	}
}
