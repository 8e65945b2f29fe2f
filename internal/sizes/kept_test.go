package sizes

import (
	"context"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
)

// Each client that was closed before its caches was kept until the process ended, with
// all that its caches had.
func TestClient_IsNotKeptByACacheThatIsNotClosed(t *testing.T) {
	t.Parallel()
	shared := redistest.Shared(t).Client(nil)
	opts := *shared.Options()
	opts.PushNotificationProcessor = nil // which NewClient has set
	var gone weak.Pointer[redis.Client]
	func() {
		rdb := redis.NewClient(&opts)
		gone = weak.Make(rdb)
		c := cachex.Must(cachex.New(rdb, cachex.Spec[int, string]{
			Key: t.Name() + ":{id}", TTL: time.Minute,
			Up: func(context.Context, int) (string, error) { return "value", nil },
		}))
		v, err := c.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "value", v)
		require.NoError(t, rdb.Close())
	}()
	require.Eventually(t, func() bool { runtime.GC(); return gone.Value() == nil }, patience, 10*time.Millisecond)
}
