// Package redistest gives tests a Redis: a real redis-server process, an
// embedded one, and the means to hurt either.
//
//   - [Start] runs a redis-server that belongs to one test, which may kill,
//     pause and restart it. [Shared] is one server for all the tests of a
//     package, each of which keeps to keys that begin with its own [Key].
//     [StartCluster] runs several as a Redis Cluster, with replicas or without,
//     [StartSentinel] a master and a replica that a Sentinel watches, and
//     [StartTwemproxy] a proxy before some. [Ring] is a client of several.
//   - [StartEmbedded] is a Redis inside the test's process. [Each] runs one test
//     against both, for neither alone is proof: the embedded one runs anywhere,
//     and only the real one is Redis.
//   - [Bubble] is an embedded Redis in a bubble of testing/synctest, where hours
//     pass in no time and always in the same way.
//   - [Gate], [Counter] and [Faults] are go-redis hooks: they stop commands,
//     count them and fail them, exactly and without timing.
//   - [Proxy] stands between a client and a server and spoils the connection
//     itself, so that what go-redis does about it is part of the test.
//   - [Lines] are connections whose replies time out when the test says so.
//   - [Child] runs a piece of a test in a process of its own, so that kill -9 is
//     kill -9.
//
// Everything that is started is stopped and awaited at the end of its test, by
// its own process id. A package whose tests use Shared or Child gives its
// TestMain to [Main].
//
// A test that needs a server skips where the server is not installed, and fails
// there if CACHEX_REQUIRE_SERVERS=1 is in the environment, so that continuous
// integration cannot pass by skipping.
//
// The package imports package testing and no test library: programs that want
// the embedded server, such as the examples, import it as well.
package redistest
