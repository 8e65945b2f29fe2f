package middleware

import (
	"log/slog"
	"time"
)

// Typed makes Middlewares of functions from K to V, so that K and V are written
// at most once: see For. Its methods are the functions of the same names. The
// zero value is ready:
//
//	var wrap middleware.Typed[int64, User]
//
// Cached needs no method: it takes the types from the cache.
type Typed[K comparable, V any] struct{}

// For returns a Typed for functions of f's type. It does not call f, which may
// be nil.
func For[K comparable, V any](Func[K, V]) Typed[K, V] { return Typed[K, V]{} }

// Timeout is the function Timeout.
func (Typed[K, V]) Timeout(d time.Duration) Middleware[K, V] { return Timeout[K, V](d) }

// Retry is the function Retry.
func (Typed[K, V]) Retry(o RetryOptions) Middleware[K, V] { return Retry[K, V](o) }

// Limit is the function Limit.
func (Typed[K, V]) Limit(n int) Middleware[K, V] { return Limit[K, V](n) }

// Breaker is the function Breaker.
func (Typed[K, V]) Breaker(o BreakerOptions) Middleware[K, V] { return Breaker[K, V](o) }

// Log is the function Log.
func (Typed[K, V]) Log(l *slog.Logger, o ...LogOptions) Middleware[K, V] { return Log[K, V](l, o...) }

// Once is the function Once.
func (Typed[K, V]) Once(g Gate[K]) Middleware[K, V] { return Once[V](g) }
