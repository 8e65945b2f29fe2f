package middleware

import (
	"context"
	"fmt"
	"reflect"
	"slices"
)

// A Func is what is wrapped: Spec.Up, Cache.Get, what Cache.Wrap returns, or any
// other function of a key.
type Func[K comparable, V any] = func(context.Context, K) (V, error)

// A Middleware wraps a Func. One of your own is a function like any other; it must
// call what it wraps with the ctx that it got, or one made of it.
type Middleware[K comparable, V any] = func(Func[K, V]) Func[K, V]

// Chain returns f wrapped by mws. The first listed is outermost. Without any it
// returns f. It panics if f, or one of mws or what that returns, is nil.
func Chain[K comparable, V any](f Func[K, V], mws ...Middleware[K, V]) Func[K, V] {
	given("Chain", "f", f)
	for i, mw := range slices.Backward(mws) {
		if mw == nil {
			refuse("Chain", "middleware %d of %d is nil", i+1, len(mws))
		}
		if f = mw(f); f == nil {
			refuse("Chain", "middleware %d of %d returned nil", i+1, len(mws))
		}
	}
	return f
}

// refuse panics with what is wrong with an argument of the function name.
func refuse(name, format string, args ...any) {
	panic(fmt.Sprintf("cachex: middleware.%s: %s", name, fmt.Sprintf(format, args...)))
}

// given panics if v, which is the argument arg of the function name, is nil, or is
// an interface with a pointer in it that is: a cache that has not been made yet,
// for instance, in a variable of a package.
func given(name, arg string, v any) {
	if r := reflect.ValueOf(v); !r.IsValid() || (r.Kind() == reflect.Pointer || r.Kind() == reflect.Func) && r.IsNil() {
		refuse(name, "%s is nil", arg)
	}
}
