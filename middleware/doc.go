// Package middleware wraps functions: in a cache, a timeout, retries, a limit,
// a breaker, a log, a gate. Every wrapper takes a function of a ctx and a key
// and returns one of the same type. Spec.Up and Cache.Get have that type too,
// so wrappers go between a cache and its source as well as between a caller and
// its cache:
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
// The first listed is outermost: it sees the call first and the result last. A
// wrapper above Cached acts on each call, including hits. A wrapper below it
// acts on each load: once for all callers of the fleet, under the lease, and
// with the ctx of the load, not of a caller.
//
//	             above Cached                          below Cached
//	Timeout      the caller leaves; the load goes      bounds the load; all waiters get
//	             on for others, and is cancelled       its error
//	             when the last caller has left
//	Retry        each caller retries; callers of       one load retries, under one lease:
//	             one key share each attempt            the right place
//	Limit        bounds calls, including hits          bounds loads
//	Breaker      if open, rejects hits too             if open, spares the source; hits go
//	                                                   on, and StaleIfError serves stale
//	                                                   values
//	Log          one record a call                     one record a load
//	Once         one call per interval; others get     one load per interval; a later miss
//	             no value                              is an error
//
// Among the others: Timeout below Retry bounds each attempt, and above it all
// of them. Limit below Retry frees its slot while Retry pauses; above it does
// not. Breaker below Retry counts attempts, and by default Retry does not retry
// while it is open. Breaker above Retry does not count a call that a retry has
// saved. Put Once above Retry, which does not know that a gate stays closed for
// a while.
//
// # Common behaviour
//
// Wrappers start no goroutine and call f on the goroutine of the caller. So
// there is nothing to wait for or to clean up, but an f that ignores its ctx
// blocks its caller. To avoid that, put f below a Cached: the cache abandons
// such a load after UpTimeout, or when the caller's ctx ends. Close of the
// cache waits for it.
//
// A panic passes through with its stack, and so does runtime.Goexit. Resources
// are released on the way: the slot of Limit is freed, Breaker and Log have
// recorded the call, and Once leaves the gate to decide. A Cached turns the
// panic into an error, a *loader.PanicError, for every caller.
//
// A value that f returns along with an error is passed on with it. An error of
// a wrapper itself names the wrapper and the key, never the value:
//
//	cachex: timeout 42: no answer within 1s
//
// A wrong argument, such as a nil function, panics where the wrapper is made or
// applied, like regexp.MustCompile. Wrappers are made from constants when a
// program starts, and an error for each would be dead code.
//
// State belongs to the Middleware, not to the wrapped function: functions
// wrapped by one Limit share its slots, and those wrapped by one Breaker open
// it together. All results of this package are safe for concurrent use if f is.
//
// # Type arguments
//
// Go infers type arguments from arguments, not from the use of a result.
// Cached(users) mentions K and V. Timeout(time.Second) does not, so in a Chain
// it would have to be Timeout[int64, User](time.Second). For takes the type
// arguments from a function, once, and no others need to be written. Rejected
// alternatives:
//
//   - A generic function that is not called, such as one named Recover, is
//     inferred as an argument of Chain. But it has no room for a duration, and
//     With(time.Second, Timeout) is a call, which is not inferred.
//   - Untyped Middlewares with a generic method would work, but Go 1.26 has no
//     generic methods.
//   - Functions that also take f, Timeout(time.Second, f), need no type
//     arguments and no Chain. But they nest: five wrappers are hard to read,
//     and a wrapper of your own needs another form.
//   - On(f).Retry(…).Timeout(…) needs none either. But it reads from the inside
//     out, and one package should not have two orders.
package middleware
