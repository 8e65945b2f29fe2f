// Package middleware wraps functions: in a cache, a timeout, retries, a limit, a
// breaker, a log, a gate. Every wrapper takes a function of a ctx and a key and
// returns one of the same type, which is the type of Spec.Up and of Cache.Get, so
// they go between a cache and its source as well as between a caller and its cache:
//
//	wrap := middleware.For(db.UserByID)
//	getUser := middleware.Chain(db.UserByID, // func(context.Context, int64) (User, error)
//		wrap.Log(logger),
//		wrap.Timeout(time.Second),
//		middleware.Cached(users),
//		wrap.Limit(20),
//		wrap.Retry(middleware.RetryOptions{}),
//	)
//
// # Order
//
// The first listed is outermost: it sees the call first and the result last. Above
// Cached is what one caller asks for, hits included. Below it is what a miss does,
// once for all the callers of the fleet, under the lease, in a ctx that is the
// load's and not a caller's.
//
//	             above Cached                          below Cached
//	Timeout      the caller leaves; the load goes      bounds the load; its error is
//	             on for others, and is cancelled       every waiter's
//	             when the last one has left
//	Retry        each caller tries again, and those    one load tries again, under one
//	             of one key share each attempt         lease: here it belongs
//	Limit        bounds calls, hits too                bounds loads
//	Breaker      open, it refuses hits too             open, it spares the source, hits
//	                                                   go on, and StaleIfError serves
//	                                                   what there was
//	Log          one record a call                     one record a load
//	Once         one call per interval, and no value   one load per interval: after it a
//	             for the others                        miss is an error
//
// Among the others: Timeout below Retry bounds an attempt and above it all of them.
// Limit below Retry frees the place while Retry waits, above it does not. Breaker
// below Retry counts attempts, and Retry by default does not try again while it is
// open; above it, a call that was mended by a retry is none of its failures. Once
// belongs above Retry, which does not know that a gate stays closed for a while.
//
// # What they share
//
// Wrappers start no goroutine and call f in the goroutine of the caller. So nothing
// is left behind, and nobody has to be waited for; but an f that does not heed its
// ctx keeps its caller. Where that must not be, put it below a Cached: the cache
// leaves such a load behind, after UpTimeout or when the caller's ctx ends, and its
// Close waits for it.
//
// A panic passes through, with the stack that it has, and so does runtime.Goexit.
// What was taken is given back on the way: the place of Limit is free, Breaker and
// Log have been told, Once leaves it to the gate. A Cached makes an error of it, a
// *loader.PanicError, for every caller.
//
// What f returns along with an error is passed on with it. An error of a wrapper
// itself names the wrapper and the key, never the value:
//
//	cachex: timeout 42: no answer within 1s
//
// A bad argument, such as a function that is nil, panics where the wrapper is made
// or applied, as regexp.MustCompile does: wrappers are made when a program starts,
// by constants, and an error for each would be written down and never seen.
//
// State belongs to the Middleware, not to what it wraps: functions that are wrapped
// by one Limit share its places, and those wrapped by one Breaker open it together.
// All that this package returns is safe for concurrent use if f is.
//
// # Type arguments
//
// Go infers type arguments from arguments, and not from what a result is used for.
// Cached(users) mentions K and V. Timeout(time.Second) does not, and as an argument
// of Chain it would have to be Timeout[int64, User](time.Second). So For takes them
// from a function, once, and then none has to be written. What else was tried:
//
//   - A generic function that is not called, such as one that could be named
//     Recover, is inferred as an argument of Chain. But it has no place for a
//     duration, and With(time.Second, Timeout) is a call, which is not inferred.
//   - Middlewares without types that have a generic method would do. Go 1.26 has no
//     generic methods.
//   - Functions that take f too, Timeout(time.Second, f), need no type arguments and
//     no Chain. They nest: what is five wrappers deep is hard to read, and to put a
//     wrapper of your own among them is another thing.
//   - On(f).Retry(…).Timeout(…) needs none either. It reads from the inside out, and
//     one package should not have two orders.
package middleware
