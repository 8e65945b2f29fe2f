// Package cachex is a typed cache on Redis. It loads a missing value once for
// the whole fleet, and never stores a value that was loaded before a deletion.
//
//	users := cachex.Must(cachex.New(rdb, cachex.Spec[int64, User]{
//		Key: "users:{id}",
//		TTL: 10 * time.Minute,
//		Up:  db.UserByID, // func(context.Context, int64) (User, error)
//	}))
//	u, err := users.Get(ctx, 42) // Redis, or one Up for the whole fleet
//
// rdb is any redis.UniversalClient of go-redis. There is no other client to
// learn and nothing to start.
//
// # Reading
//
// Get returns the value in Redis, by one plain GET. On a miss, one caller in
// one process of the fleet takes a lease on the key and calls Up. All other
// callers wait for it, each as long as its own ctx allows. The lease is renewed
// while Up runs, so Up may take longer than LeaseTTL. If the loading process
// dies, another one takes over. Lookup never loads.
//
// A stale value may still be served. During Spec.StaleWhileRevalidate it is
// served at once while one process reloads it. After that, during
// Spec.StaleIfError, it is served only if Up fails. RefreshEvery and
// Spec.EarlyRefresh reload before a value is stale.
//
// Get has the signature of Up, and GetMany, which reads and loads many keys
// together, has the signature of UpMany. So a cache can be the Up of another
// cache, and a test can pass a function.
//
// # Writing
//
// Set stores a value. If Spec.Down is set, it writes the value to the database
// first. Delete removes values. Both win over a load in flight, in any process:
// its result may be older, so it is not stored and not given to later callers.
// The same holds for a DEL, a SET, an expiry, an eviction or a flush, even from
// redis-cli: the lease is part of the entry. Expire makes values stale and
// keeps them.
//
// # Guarantees
//
//  1. After Delete has returned nil, no call that starts later returns a value
//     whose load began before the Delete.
//  2. While Redis answers, at most one call of Up per key runs in the fleet.
//     Callers that start after a deletion, a write or a Refresh do not wait for
//     a load that was fenced by it.
//  3. A load slower than its lease is still stored, once.
//
// # Limits
//
//   - Redis replicates asynchronously. A failover can lose an acknowledged
//     deletion; TTL bounds for how long. For the same reason the client must
//     not read from replicas.
//   - If two Sets run at the same time, one of them stays, not always the later
//     one. If a database is the source of truth, write there and Delete here,
//     or let Set do both by Spec.Down. The cache then holds the value of the
//     database, or nothing, unless the process dies in between.
//   - A Set that returned an error may still be carried out later.
//   - If a lease is lost, as by an eviction, or Redis does not answer, calls of
//     Up may overlap. No old value is stored as a result.
//
// # When Redis fails
//
// If Up is set, Get does not fail. It calls Up, one call per key at a time in
// each process and at most Spec.MaxLoads in total, and stores nothing. After a
// few failures, reads stop waiting for Redis until it is back. Set and Delete
// return the error, because a lost deletion must not look like a success.
// Unusable bytes in Redis, from any writer, are a miss and are overwritten.
// Stats counts all of these cases.
//
// # Packages
//
//   - batch reads several caches, of different types, in one round trip.
//   - counter counts, restores a missing count, and persists counts.
//   - collection stores lists, sets, rankings and feeds.
//   - gate lets something happen once per interval.
//   - middleware wraps functions: cached, retried, limited, timed.
//   - httpcache caches the responses of an http.Handler.
//   - codec turns values into bytes; codec/codectest tests a custom codec.
//   - writebehind persists later and in batches. ledger makes a database apply
//     each batch once. Spec.WriteBehind and counters are built on both.
//   - loader loads a key once, in a process and in the fleet, without a Cache.
//   - twemproxy configures a client for that proxy.
//   - cachextest gives tests a Redis with nothing to install.
package cachex
