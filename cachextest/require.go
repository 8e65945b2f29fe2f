package cachextest

import (
	"context"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// RequireLoads fails the test unless key was loaded exactly want times.
func RequireLoads[K comparable, V any](t testing.TB, source *Source[K, V], key K, want int) {
	t.Helper()
	if got := source.Loads(key); got != want {
		t.Fatalf("cachextest: key %v was loaded %d times, want %d", key, got, want)
	}
}

// RequireRoundTrips fails the test unless f costs exactly want round trips. A
// failure shows the commands. No other code may use the server meanwhile.
func RequireRoundTrips(t testing.TB, server *Server, want int, f func()) {
	t.Helper()
	trips, commands := server.RoundTrips(), len(server.Commands())
	f()
	if got := server.RoundTrips() - trips; got != want {
		var sent strings.Builder
		for _, c := range server.Commands()[commands:] {
			sent.WriteString("\n\t" + short(c))
		}
		t.Fatalf("cachextest: %d round trips, want %d:%s", got, want, sent.String())
	}
}

// short formats a command for a reader: its name and its first key.
func short(command []string) string {
	key := 1
	if strings.HasPrefix(command[0], "EVAL") {
		key = 3 // after the script and the number of keys
	}
	if len(command) <= key {
		return command[0]
	}
	return command[0] + " " + command[key]
}

// Looker is a cache. Lookup returns the cached value, and loads nothing.
type Looker[K comparable, V any] interface {
	Lookup(ctx context.Context, key K) (V, bool, error)
}

// RequireCached fails the test unless the cache holds a value for key. It
// returns the value.
func RequireCached[K comparable, V any](t testing.TB, cache Looker[K, V], key K) V {
	t.Helper()
	v, ok, err := cache.Lookup(t.Context(), key)
	switch {
	case err != nil:
		t.Fatalf("cachextest: lookup of key %v: %v", key, err)
	case !ok:
		t.Fatalf("cachextest: key %v is not cached", key)
	}
	return v
}

// RequireAbsent fails the test if the cache holds a value for key.
func RequireAbsent[K comparable, V any](t testing.TB, cache Looker[K, V], key K) {
	t.Helper()
	switch _, ok, err := cache.Lookup(t.Context(), key); {
	case err != nil:
		t.Fatalf("cachextest: lookup of key %v: %v", key, err)
	case ok:
		t.Fatalf("cachextest: key %v is cached", key)
	}
}

// Fleet calls create n times, each time with a new client, to simulate n
// processes: each has its own caches, and all share the server. If a C has the
// method Close(context.Context) error, Fleet calls it when the test ends. An
// error of Close fails the test.
func Fleet[C any](t testing.TB, server *Server, n int, create func(rdb redis.UniversalClient) C) []C {
	t.Helper()
	fleet := make([]C, n)
	for i := range fleet {
		fleet[i] = create(server.Client())
		if c, ok := any(fleet[i]).(interface {
			Close(ctx context.Context) error
		}); ok {
			t.Cleanup(func() {
				if err := c.Close(context.Background()); err != nil {
					t.Errorf("cachextest: close process %d: %v", i, err)
				}
			})
		}
	}
	return fleet
}
