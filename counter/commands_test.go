package counter_test

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestCounter_IncAddOnceAndGetAreOneCommandEach(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{})
		_, err := c.AddOnce(t.Context(), 1, 1, "first") // the server learns the scripts
		require.NoError(t, err)
		_, err = c.Inc(t.Context(), 1)
		require.NoError(t, err)
		sent := new(redistest.Counter)
		rdb.AddHook(sent)
		for name, call := range map[string]func() (int64, error){
			"Inc":     func() (int64, error) { return c.Inc(t.Context(), 1) },
			"AddOnce": func() (int64, error) { return c.AddOnce(t.Context(), 1, 1, "second") },
			"Get":     func() (int64, error) { return c.Get(t.Context(), 1) },
		} {
			sent.Reset()
			_, err := call()
			require.NoError(t, err)
			require.Equal(t, []int{1, 1}, []int{sent.Count(), sent.RoundTrips()}, name)
		}
	})
}
