package cachex

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// The lease of a refresh prolongs the life of the value that it stands on, in
// Redis. A reader must not take that for the value's own.
func TestRefresh_FailureDoesNotProlongAValue(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, string]{Key: "k:{id}", TTL: time.Second, Jitter: NoJitter, Up: func(context.Context, int) (string, error) {
			return "", errSourceDown
		}})
		require.NoError(t, c.Set(t.Context(), 1, "v"))
		time.Sleep(900 * time.Millisecond)
		_, err := c.Refresh(t.Context(), 1)
		require.ErrorIs(t, err, errSourceDown)
		v, err := c.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "v", v, "what was there stays")
		time.Sleep(100 * time.Millisecond)
		_, ok, err := c.Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.False(t, ok)
		_, err = c.Get(t.Context(), 1)
		require.ErrorIs(t, err, errSourceDown)
	})
}

// What StaleIfError keeps is served only by calls that have tried to do better.
func TestLookup_IgnoresValuesKeptForStaleIfError(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, string]{
			Key: "k:{id}", TTL: time.Second, Jitter: NoJitter, StaleIfError: time.Hour,
			Up: func(context.Context, int) (string, error) { return "", errSourceDown },
		})
		require.NoError(t, c.Set(t.Context(), 1, "v"))
		time.Sleep(time.Second)
		for range 2 { // before and after a load has failed
			_, ok, err := c.Lookup(t.Context(), 1)
			require.NoError(t, err)
			require.False(t, ok)
			values, err := c.LookupMany(t.Context(), []int{1})
			require.NoError(t, err)
			require.Empty(t, values)
			v, err := c.Get(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, "v", v)
		}
	})
}
