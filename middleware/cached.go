package middleware

import "context"

// Cache is the part of a cache that Cached needs. *cachex.Cache implements it,
// and so does any type that embeds one.
type Cache[K comparable, V any] interface {
	Wrap(up func(context.Context, K) (V, error)) func(context.Context, K) (V, error)
}

// Cached returns the values of f from cache, and calls f on a miss, once for
// the whole fleet: it is cache.Wrap. The Up of the cache is not called. All
// functions wrapped by one cache share values by their keys, so each f needs
// its own cache, or at least its own template.
//
// It returns the errors of the cache, which wrap the error of f. The ctx of f
// carries the values of the first caller's ctx, and ends with the load: see
// Cache.Get.
func Cached[K comparable, V any](cache Cache[K, V]) Middleware[K, V] {
	mustNotBeNil("Cached", "cache", cache)
	return func(f Func[K, V]) Func[K, V] {
		mustNotBeNil("Cached", "f", f)
		return cache.Wrap(f)
	}
}
