package middleware

import "context"

// A Cache is what Cached needs of one. *cachex.Cache has the method, and so has
// what embeds it.
type Cache[K comparable, V any] interface {
	Wrap(up func(context.Context, K) (V, error)) func(context.Context, K) (V, error)
}

// Cached returns what f does from cache, and calls f on a miss, once for the whole
// fleet: it is cache.Wrap. An Up that the cache has is not called. All functions
// that one cache wraps share values by their keys, so each f needs a cache, or at
// least a template, of its own.
//
// Errors are those of the cache, which wrap those of f. f sees the values of the
// first caller's ctx and the end of the load's: see Cache.Get.
func Cached[K comparable, V any](cache Cache[K, V]) Middleware[K, V] {
	given("Cached", "cache", cache)
	return func(f Func[K, V]) Func[K, V] {
		given("Cached", "f", f)
		return cache.Wrap(f)
	}
}
