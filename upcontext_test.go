package cachex_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/cachextest"
	"github.com/cachex-go/cachex/internal/redistest"
)

type traceKey struct{}

type transactionKey struct{}

// traceOnly lets the trace cross, and nothing else.
func traceOnly(ctx context.Context) context.Context {
	return context.WithValue(context.Background(), traceKey{}, ctx.Value(traceKey{}))
}

func TestUpContext_ChoosesTheValuesThatUpSees(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		type seen struct{ trace, transaction any }
		up := make(chan seen, 1)
		look := func(ctx context.Context) {
			up <- seen{ctx.Value(traceKey{}), ctx.Value(transactionKey{})}
			_, ok := ctx.Deadline()
			require.True(t, ok, "the load has lost UpTimeout")
		}
		c, err := cachex.New(rdb, cachex.Spec[int, string]{
			Key: "k:{id}", TTL: time.Minute, StaleWhileRevalidate: time.Hour, UpContext: traceOnly,
			Up: func(ctx context.Context, _ int) (string, error) {
				look(ctx)
				if _, ok := cachex.Previous[string](ctx); ok {
					return "", cachex.ErrNotModified
				}
				return "v", nil
			},
		})
		require.NoError(t, err)
		many, err := cachex.New(rdb, cachex.Spec[int, string]{
			Key: "many:{id}", TTL: time.Minute, UpContext: traceOnly,
			UpMany: func(ctx context.Context, keys []int) (map[int]string, error) {
				look(ctx)
				cachex.NoStore(ctx)
				return map[int]string{1: "v"}, nil
			},
		})
		require.NoError(t, err)
		ctx := context.WithValue(t.Context(), traceKey{}, "trace")
		ctx = context.WithValue(ctx, transactionKey{}, "open")

		_, err = c.Get(ctx, 1)
		require.NoError(t, err)
		require.Equal(t, seen{"trace", nil}, <-up)

		time.Sleep(2 * time.Minute)
		v, err := c.Get(ctx, 1) // stale; one process reloads, and finds the value unmodified
		require.NoError(t, err)
		require.Equal(t, "v", v)
		require.Equal(t, seen{"trace", nil}, <-up)

		for range 2 { // NoStore reaches the load, so each call loads
			_, err = many.GetMany(ctx, []int{1})
			require.NoError(t, err)
			require.Equal(t, seen{"trace", nil}, <-up)
		}
		require.NoError(t, c.Close(t.Context()))
		require.NoError(t, many.Close(t.Context()))
	})
}

func TestUpContext_ReentrantLoadIsStillAnError(t *testing.T) {
	t.Parallel()
	var c *cachex.Cache[int, string]
	c, err := cachex.New(cachextest.Redis(t), cachex.Spec[int, string]{
		Key: "k:{id}", TTL: time.Minute, UpContext: func(context.Context) context.Context { return nil },
		Up: func(ctx context.Context, id int) (string, error) { return c.Get(ctx, id) },
	})
	require.NoError(t, err)
	_, err = c.Get(t.Context(), 1)
	require.ErrorContains(t, err, "load asks for the key that it loads")
	require.NoError(t, c.Close(t.Context()))
}

func TestUpContext_PanicFailsTheLoad(t *testing.T) {
	t.Parallel()
	fails := true
	c, err := cachex.New(cachextest.Redis(t), cachex.Spec[int, string]{
		Key: "k:{id}", TTL: time.Minute,
		UpContext: func(ctx context.Context) context.Context {
			if fails {
				panic(errors.New("boom"))
			}
			return ctx
		},
		Up: func(context.Context, int) (string, error) { return "v", nil },
	})
	require.NoError(t, err)
	_, err = c.Get(t.Context(), 1)
	require.ErrorContains(t, err, "boom")
	fails = false
	v, err := c.Get(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, "v", v)
	require.NoError(t, c.Close(t.Context()))
}
