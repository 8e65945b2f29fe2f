// Package cachextest tests programs that use cachex, with nothing to install
// and nothing to start:
//
//	func TestProfilesAreLoadedOnce(t *testing.T) {
//		t.Parallel()
//		source := cachextest.NewSource[int64, Profile]()
//		source.Put(7, Profile{Name: "Ada"})
//		profiles := NewProfiles(cachextest.Redis(t), source.Up)
//		…
//		cachextest.RequireLoads(t, source, 7, 1)
//	}
//
// [Redis] returns a client of an embedded Redis. [Start] returns the server
// itself: it shows which commands arrive, and fails, delays or holds them.
// [Source] is a database that counts loads and fails on demand. [Fleet] makes
// several processes.
//
// In a bubble of testing/synctest, TTLs, leases and back-offs pass at once: see
// [Server.Advance].
//
// The embedded Redis shows whether a program uses its caches well: which values
// are loaded, how often, under which keys, and which values a reader gets. It
// proves nothing about timing, throughput, eviction or failover. It has no
// Cluster, no client tracking, no sharded publish and subscribe, and no memory
// limit. Test code that depends on these against the servers of production.
package cachextest

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/redistest"
)

// Redis returns a client of an embedded Redis that only this test uses. The
// client and the server are closed when the test ends. The caches must be
// closed before.
//
// TTLs follow the clock of the test, to the millisecond. The clock is real
// time, or the time of a bubble of testing/synctest, where an hour passes at
// once. The client has no socket: another client of the same server is
// redis.NewClient with its Options. The client is safe for concurrent use. If
// the server cannot start, Redis fails the test.
func Redis(t testing.TB) redis.UniversalClient {
	t.Helper()
	return redistest.InMemory(t)
}
