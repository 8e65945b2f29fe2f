package counter_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

// A Counter that leaves a goroutine behind fails the run, in any test.
func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

// patience bounds every wait in real time.
var patience = redistest.Patience

// someLease is the default LeaseTTL and UpTimeout of the tests. It is longer
// than a busy machine may stand still, and shorter than the TTL.
const someLease = 10 * time.Minute

// soon is the time that a restore waits for a batch that will not be persisted.
const soon = 100 * time.Millisecond

// newCounter returns a counter of rdb that is closed when the test ends. Key
// defaults to a key of this test alone, TTL to an hour.
func newCounter[K comparable](t testing.TB, rdb redis.UniversalClient, spec counter.Spec[K]) *counter.Counter[K] {
	t.Helper()
	if spec.Key == "" && spec.KeyFunc == nil {
		spec.Key = redistest.Key(t) + ":{id}"
	}
	if spec.TTL == 0 {
		spec.TTL = time.Hour
	}
	if spec.LeaseTTL == 0 {
		spec.LeaseTTL = someLease
	}
	if spec.UpTimeout == 0 {
		spec.UpTimeout = someLease
	}
	if spec.Down != nil && spec.WriteBehindOptions.LeaseTTL == 0 {
		spec.WriteBehindOptions.LeaseTTL = someLease
	}
	spec.DownValues = spec.Down != nil // the tables of tests write them
	c, err := counter.New(rdb, spec)
	require.NoError(t, err)
	c.SetPatience(patience)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience) // t.Context has ended
		defer cancel()
		require.NoError(t, c.Close(ctx), "a call, a load or a count is left behind")
	})
	return c
}
