package cachex

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// User is the value of most tests: a struct with a field of each common kind.
type User struct {
	ID    int64
	Name  string
	Email string
	Admin bool
	Tags  []string
	Seen  time.Time
}

// ann is a User with every field set. Its time is one that survives a codec as
// it is: of the local zone, without a monotonic clock.
var ann = User{
	ID: 42, Name: "Ann", Email: "ann@example.com", Admin: true,
	Tags: []string{"a", "b"}, Seen: time.Unix(1_700_000_000, 123_000_000).UTC(),
}

// patience bounds every wait in real time.
var patience = redistest.Patience

// process returns a client of its own, as another process has, closed when the test ends.
func process(t testing.TB, rdb *redis.Client) *redis.Client {
	t.Helper()
	other := redis.NewClient(rdb.Options())
	t.Cleanup(func() { require.NoError(t, other.Close()) })
	return other
}

// newCache returns a cache of rdb that is closed when the test ends. If spec has
// no Key, it gets one that no other test has; if it has no TTL, an hour.
func newCache[K comparable, V any](t testing.TB, rdb redis.UniversalClient, spec Spec[K, V]) *Cache[K, V] {
	t.Helper()
	if spec.Key == "" && spec.KeyFunc == nil {
		spec.Key = redistest.Key(t) + ":{id}"
	}
	if spec.TTL == 0 {
		spec.TTL = time.Hour
	}
	c, err := New(rdb, spec)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience) // t.Context has ended
		defer cancel()
		require.NoError(t, c.Close(ctx), "a call or a load is left behind")
	})
	return c
}

// closedClient returns a client of no server, for tests that must not reach one:
// whatever it is asked is an error.
func closedClient(t testing.TB) *redis.Client {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	require.NoError(t, rdb.Close())
	return rdb
}

// counted returns a client of the server of rdb that counts what it sends.
func counted(t testing.TB, rdb *redis.Client) (*redis.Client, *redistest.Counter) {
	t.Helper()
	second := again(t, rdb)
	commands := new(redistest.Counter)
	second.AddHook(commands)
	return second, commands
}

// again returns one more client of the server of rdb.
func again(t testing.TB, rdb *redis.Client) *redis.Client {
	t.Helper()
	opts := *rdb.Options()
	opts.PushNotificationProcessor = nil // which NewClient has set, and each client needs its own
	second := redis.NewClient(&opts)
	t.Cleanup(func() { _ = second.Close() })
	return second
}

// receive returns what comes out of ch, and fails the test if nothing does.
func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		require.FailNow(t, "nothing happened", "after %v", patience)
		panic("unreachable")
	}
}
