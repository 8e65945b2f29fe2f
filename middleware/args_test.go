package middleware_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/middleware"
)

func TestChain2_CachesByBothArguments(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		pages := cachex.Must(cachex.New(rdb, cachex.Spec[middleware.Args2[int64, string], string]{
			Key: redistest.Key(t) + ":{a}:{b}",
			TTL: time.Minute,
		}))
		defer pages.Close(t.Context())
		var calls atomic.Int64
		render := func(_ context.Context, userID int64, lang string) (string, error) {
			calls.Add(1)
			return fmt.Sprint(userID, lang), nil
		}
		wrap := middleware.For(middleware.Func2(render))
		page := middleware.Chain2(render, wrap.Timeout(time.Minute), middleware.Cached(pages))
		for range 2 {
			for id := range int64(2) {
				for _, lang := range []string{"en", "d:e"} {
					got, err := page(t.Context(), id, lang)
					require.NoError(t, err)
					require.Equal(t, fmt.Sprint(id, lang), got)
				}
			}
		}
		require.EqualValues(t, 4, calls.Load())
		got, err := pages.Get(t.Context(), middleware.Args2[int64, string]{A: 1, B: "en"})
		require.NoError(t, err)
		require.Equal(t, "1en", got)
	})
}

func TestChain0_CachesAFunctionWithoutArguments(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		task := cachex.Must(cachex.New(rdb, cachex.Spec[struct{}, int]{Key: redistest.Key(t), TTL: time.Minute}))
		defer task.Close(t.Context())
		var calls atomic.Int64
		hardTask := func(context.Context) (int, error) {
			calls.Add(1)
			return 10, nil
		}
		wrap := middleware.For(middleware.Func0(hardTask))
		number := middleware.Chain0(hardTask, wrap.Limit(1), middleware.Cached(task))
		for range 2 {
			n, err := number(t.Context())
			require.NoError(t, err)
			require.Equal(t, 10, n)
		}
		require.EqualValues(t, 1, calls.Load())
	})
}
