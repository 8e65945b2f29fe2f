package middleware

import "context"

// Args2 is the key of a function of two arguments. A template has a placeholder
// for each, "pages:{a}:{b}".
//
// For more arguments, or for telling names in the template, write a struct with
// fields of these names, and a function that takes it:
//
//	type PageKey struct {
//		UserID int64
//		Lang   string
//	}
//
//	func(ctx context.Context, k PageKey) (Page, error) { return page(ctx, k.UserID, k.Lang) }
type Args2[A, B comparable] struct {
	A A
	B B
}

// Func0 returns f, a function without arguments, as a Func. Its key is
// struct{}, whose template has no placeholder.
func Func0[V any](f func(context.Context) (V, error)) Func[struct{}, V] {
	mustNotBeNil("Func0", "f", f)
	return func(ctx context.Context, _ struct{}) (V, error) { return f(ctx) }
}

// Func2 returns f, a function of two arguments, as a Func, for Spec.Up and For.
func Func2[A, B comparable, V any](f func(context.Context, A, B) (V, error)) Func[Args2[A, B], V] {
	mustNotBeNil("Func2", "f", f)
	return func(ctx context.Context, args Args2[A, B]) (V, error) { return f(ctx, args.A, args.B) }
}

// Chain0 is Chain for a function without arguments, and returns one.
func Chain0[V any](f func(context.Context) (V, error), mws ...Middleware[struct{}, V]) func(context.Context) (V, error) {
	mustNotBeNil("Chain0", "f", f)
	wrapped := Chain(Func0(f), mws...)
	return func(ctx context.Context) (V, error) { return wrapped(ctx, struct{}{}) }
}

// Chain2 is Chain for a function of two arguments, and returns one.
func Chain2[A, B comparable, V any](f func(context.Context, A, B) (V, error), mws ...Middleware[Args2[A, B], V]) func(context.Context, A, B) (V, error) {
	mustNotBeNil("Chain2", "f", f)
	wrapped := Chain(Func2(f), mws...)
	return func(ctx context.Context, a A, b B) (V, error) { return wrapped(ctx, Args2[A, B]{a, b}) }
}
