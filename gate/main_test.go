package gate_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/gate"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

// patience bounds every wait in real time.
var patience = redistest.Patience

// newGate returns a gate of ints of this test alone.
func newGate(t testing.TB, rdb redis.UniversalClient, every time.Duration) *gate.Gate[int] {
	t.Helper()
	return gateOf(t, rdb, redistest.Key(t), every)
}

// gateOf returns a gate of ints whose keys begin with prefix.
func gateOf(t testing.TB, rdb redis.UniversalClient, prefix string, every time.Duration) *gate.Gate[int] {
	t.Helper()
	g, err := gate.New(rdb, gate.Spec[int]{Key: prefix + ":{id}", Every: every})
	require.NoError(t, err)
	return g
}

// again returns another client of the server of rdb.
func again(t testing.TB, rdb *redis.Client, configure func(*redis.Options)) *redis.Client {
	t.Helper()
	opts := *rdb.Options()
	opts.PushNotificationProcessor = nil // NewClient has set it, and each client needs its own
	if configure != nil {
		configure(&opts)
	}
	second := redis.NewClient(&opts)
	t.Cleanup(func() { _ = second.Close() })
	return second
}

// tries fails unless Try returns want.
func tries(t testing.TB, g *gate.Gate[int], id int, want bool) {
	t.Helper()
	ok, retryAfter, err := g.Try(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, want, ok)
	require.Equal(t, want, retryAfter == 0, "retry after %v", retryAfter)
}
