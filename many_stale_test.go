package cachex

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// The first GetMany of a process asks for the leases in place of reading, where no
// stale value is to be served. Here it has to read.
func TestGetMany_FirstCallOfAProcessIsServedStaleValuesAtOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		finish := make(chan struct{})
		spec := Spec[int, string]{
			Key:                  redistest.Key(t) + ":{id}",
			StaleWhileRevalidate: time.Hour,
			UpMany: func(context.Context, []int) (map[int]string, error) {
				<-finish
				return map[int]string{1: "new", 2: "new"}, nil
			},
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		writer, reader := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		require.NoError(t, writer.SetMany(ctx, map[int]string{1: "old", 2: "old"}))
		require.NoError(t, writer.Expire(ctx, 1, 2))

		var how Outcome
		values, err := reader.GetMany(WithOutcome(ctx, &how), []int{1, 2})
		close(finish) // which it has not waited for
		require.NoError(t, err)
		require.Equal(t, map[int]string{1: "old", 2: "old"}, values)
		require.Equal(t, Stale, how)
	})
}
