package redistest

import (
	"testing"
	"testing/synctest"

	"github.com/redis/go-redis/v9"
)

// Bubble runs f in a bubble of package synctest, with a client of an embedded
// server that is in the bubble too. Time is the time of the bubble: it passes
// at once when every goroutine waits, and the expiry of keys and TIME follow
// it. So a test of leases and expiries that covers minutes takes milliseconds,
// and runs the same way each time.
//
// Another client of the same server is redis.NewClient(rdb.Options()). All
// clients must be closed when f and its cleanups are done. rdb is closed then.
func Bubble(t *testing.T, f func(t *testing.T, rdb *redis.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, InMemory(t)) })
}

// InMemory returns a client of a [Memory]. Another client of the same server is
// redis.NewClient(rdb.Options()). The client and the server are closed when the
// test ends.
func InMemory(t testing.TB) *redis.Client {
	t.Helper()
	m, err := OpenMemory()
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	rdb := redis.NewClient(m.Options())
	// The cleanups of the test run first, and may need the server.
	t.Cleanup(func() {
		_ = rdb.Close()
		m.Close()
	})
	return rdb
}
