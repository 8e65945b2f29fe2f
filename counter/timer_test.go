package counter

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// A background flush has failed, and a Flush takes the sums before the
// background flush checks for remaining ones. Even then a failing Flush must
// leave a timer.
func TestBufferFlush_ThatFailsLeavesATimer(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		c, err := New(rdb, Spec[int]{Key: redistest.Key(t) + ":{id}", TTL: time.Hour})
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close(t.Context())) }()
		b, err := NewBuffer(c, BufferOptions{Every: 100 * time.Millisecond})
		require.NoError(t, err)
		faults := new(redistest.Faults)
		rdb.AddHook(faults)
		faults.Add(redistest.Fault{Times: redistest.Always, Err: redis.ErrPoolTimeout})

		b.armed.Store(true) // Inc relies on a timer that no longer exists
		require.NoError(t, b.Inc(1))
		require.ErrorIs(t, b.Flush(t.Context()), redis.ErrPoolTimeout)
		require.Equal(t, 1, b.Stats().Sums)
		faults.Clear()
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		require.Zero(t, b.Stats().Sums, "nobody has sent the sum")
		n, err := c.Get(t.Context(), 1)
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	})
}

// Each Add after a Flush starts a timer. A closed Buffer must not live until
// the timer ends.
func TestBufferClose_LeavesNoTimer(t *testing.T) {
	t.Parallel()
	c, err := New(redistest.StartEmbedded(t).Client(nil), Spec[int]{Key: redistest.Key(t) + ":{id}", TTL: time.Hour})
	require.NoError(t, err)
	b, err := NewBuffer(c, BufferOptions{Every: time.Hour})
	require.NoError(t, err)
	for range 3 {
		require.NoError(t, b.Inc(1))
		require.NoError(t, b.Flush(t.Context()))
	}
	require.NoError(t, b.Inc(1))
	require.NoError(t, c.Close(t.Context()))
	still := weak.Make(b)
	b, c = nil, nil
	require.Eventually(t, func() bool { runtime.GC(); return still.Value() == nil }, redistest.Patience, time.Millisecond)
}
