// Package cachex is a typed cache on Redis that restores what is missing, once
// for the whole fleet, and never stores what was loaded before a deletion.
//
//	users := cachex.Must(cachex.New(rdb, cachex.Spec[int64, User]{
//		Key: "users:{id}",
//		TTL: 10 * time.Minute,
//		Up:  db.UserByID, // func(context.Context, int64) (User, error)
//	}))
//	u, err := users.Get(ctx, 42) // Redis, or one Up for the whole fleet
//
// rdb is any redis.UniversalClient of go-redis. There is no client to learn and
// nothing to start.
//
// # Reading
//
// Get returns the value in Redis, by one plain GET. If there is none, one caller
// in one process of the fleet gets a lease on the key and calls Up; all others
// wait for it, each as long as its own ctx allows. The lease is renewed while Up
// runs, so Up may take longer than a lease holds, and another process takes over
// if the one that loads dies. Lookup never loads.
//
// A value that is no more fresh may be served all the same: at once while one
// process reloads it, for Spec.StaleWhileRevalidate, and then where Up fails, for
// Spec.StaleIfError. RefreshEvery and Spec.EarlyRefresh reload before that.
//
// Get has the shape of Up, and GetMany, which reads and loads many keys together,
// that of UpMany. So a cache can be the Up of another one, and a test can pass a
// function.
//
// # Writing
//
// Set stores a value, after Spec.Down, if there is one, has written it to the
// database. Delete takes values away. Both win over a load that is under way, in
// whatever process: what it loaded may be older, and is neither stored nor given
// to anybody who came later. The same is true of a DEL, a SET, an expiry, an
// eviction or a flush by anyone, redis-cli included, because the lease is kept in
// the entry itself. Expire makes values stale, and keeps them.
//
// # What is guaranteed
//
//  1. After Delete has returned nil, no call that starts later returns a value
//     whose load began before it.
//  2. One call of Up at a time runs per key for the fleet, as long as Redis
//     answers. What comes after a deletion, a write or a Refresh does not wait for
//     a load that these have fenced.
//  3. A load slower than its lease is still stored, once.
//
// # What is not
//
//   - Redis replicates asynchronously. A failover can lose a deletion that was
//     acknowledged; TTL bounds for how long. For the same reason the client must not
//     read from replicas.
//   - Of two Sets at the same time one stays, and not always the later one. If the
//     source of truth is a database, write there and Delete here, or let Set do both
//     by Spec.Down: what stays is then what the database has, or nothing, unless
//     the process dies in between.
//   - A Set that returned an error may still be carried out, later.
//   - Where a lease is lost, by an eviction for instance, or Redis does not answer,
//     Up may run more than once at a time. Nothing old is stored by that.
//
// # When Redis fails
//
// A Get of a cache with Up does not fail: it calls Up, one call a key at a time
// in each process and at most Spec.MaxLoads in all, and stores nothing. After a
// few failures reads do not wait for Redis any more, until it is back. Set and
// Delete return the error, because a deletion that is lost would be a lie.
// Bytes in Redis that cannot be used, by whomever they were written, are a miss
// and are overwritten. Stats count all of it.
//
// # Packages
//
//   - batch reads several caches, of different types, in one round trip.
//   - counter counts, restores a count that is missing, and persists what is counted.
//   - collection keeps lists, sets, rankings and feeds.
//   - gate lets something happen once per interval.
//   - middleware wraps functions: cached, retried, limited, timed.
//   - httpcache caches the responses of an http.Handler.
//   - codec turns values into bytes; codec/codectest tests a codec of your own.
//   - writebehind persists later and in batches, and ledger has a database apply each
//     batch once. Spec.WriteBehind and counters are built on them.
//   - loader loads a key once, in a process and in the fleet, for use without a Cache.
//   - twemproxy configures a client for that proxy.
//   - cachextest gives tests a Redis with nothing to install.
package cachex
