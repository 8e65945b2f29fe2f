// Package redistest gives tests a Redis: a real redis-server process or an
// embedded one, and the means to make either fail.
//
//   - [Start] runs a redis-server for one test, which may kill, pause and
//     restart it. [Shared] is one server for all tests of a package, each of
//     which uses only keys that begin with its own [Key]. [StartCluster] runs
//     several servers as a Redis Cluster, with or without replicas.
//     [StartSentinel] runs a master and a replica that a Sentinel watches, and
//     [StartTwemproxy] a proxy in front of several servers. [Ring] is a client
//     of several servers.
//   - [StartEmbedded] is a Redis inside the test's process. [Each] runs one
//     test against both, since neither alone is proof: the embedded one runs
//     anywhere, and only the real one is Redis.
//   - [Bubble] is an embedded Redis in a bubble of testing/synctest, where
//     hours pass in no time and always in the same way.
//   - [Gate], [Counter] and [Faults] are go-redis hooks: they stop commands,
//     count them and fail them, exactly and without timing.
//   - [Proxy] is between a client and a server and breaks the connection
//     itself, so that the reaction of go-redis is part of the test.
//   - [Lines] are connections whose replies time out when the test says so.
//   - [Child] runs a part of a test in a separate process, so that kill -9 is
//     kill -9.
//
// Everything that is started is stopped and awaited at the end of its test, by
// its own process id. A package whose tests use Shared or Child must call
// [Main] in its TestMain.
//
// If a server is not installed, a test that needs it is skipped. With
// CACHEX_REQUIRE_SERVERS=1 in the environment the test fails instead, so that
// continuous integration cannot pass by skipping.
//
// The package imports package testing and no test library: programs that want
// the embedded server, such as the examples, import it as well.
package redistest
