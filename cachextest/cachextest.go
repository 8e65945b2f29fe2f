// Package cachextest gives the tests of programs that use cachex a Redis, with
// nothing to install and nothing to start:
//
//	func TestProfilesAreLoadedOnce(t *testing.T) {
//		t.Parallel()
//		profiles := NewProfiles(cachextest.Redis(t), source)
//		…
//	}
//
// It answers whether a program uses its caches well: what is loaded, how often,
// under which keys, and what a reader gets. It does not answer how Redis behaves.
// It proves nothing about timing, throughput, eviction or failover, and it lacks
// Cluster, client tracking (so near caches are not invalidated by it), sharded
// publish and subscribe, and memory limits. Run what depends on these against the
// servers that production has.
//
// What else a test may want needs no package: a source is a function, so a test
// passes one of its own.
package cachextest

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/redistest"
)

// Redis returns a client of an embedded Redis of the test's own: it is empty, no
// other test sees it, and parallel tests do not meet. Client and server are
// closed when the test ends; all that uses them must have stopped by then.
//
// TTLs run by the clock of the test, to the millisecond: in real time, and in a bubble
// of testing/synctest by the bubble's, where an hour passes at once. The client has no
// socket: another client of the same server is redis.NewClient with its Options. It is
// safe for concurrent use. A server that cannot start fails the test.
func Redis(t testing.TB) redis.UniversalClient {
	t.Helper()
	return redistest.InMemory(t)
}
