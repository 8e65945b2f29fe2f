package cachex

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// requireClosed requires that every call of c says that it is closed.
func requireClosed(t *testing.T, c *Cache[int, string]) {
	t.Helper()
	_, get := c.Get(t.Context(), 1)
	_, _, lookup := c.Lookup(t.Context(), 1)
	for op, err := range map[string]error{
		"get": get, "lookup": lookup, "set": c.Set(t.Context(), 1, ""), "delete": c.Delete(t.Context(), 1),
	} {
		require.ErrorIs(t, err, ErrClosed)
		e, ok := errors.AsType[*Error](err)
		require.True(t, ok)
		require.Equal(t, op, e.Op)
	}
}

func TestClose_WaitsForALoadAndRefusesLaterCalls(t *testing.T) {
	t.Parallel()
	inBubble(t, Spec[int, string]{}, func(t *testing.T, rdb *redis.Client, s *source, a, b *Cache[int, string]) {
		first := asking(t.Context(), a, 1)
		load := s.next(t)
		closed := make(chan error, 8)
		for range cap(closed) { // at the same time
			go func() { closed <- a.Close(t.Context()) }()
		}
		synctest.Wait()
		require.Empty(t, closed, "a load is under way")
		requireClosed(t, a)
		load.returns("loaded", nil)
		gets(t, "loaded", first)
		for range cap(closed) {
			require.NoError(t, receive(t, closed))
		}
		require.NoError(t, a.Close(t.Context()), "again")
		requireClosed(t, a)

		// Neither the client nor another cache of the key is closed.
		require.NoError(t, rdb.Ping(t.Context()).Err())
		gets(t, "loaded", asking(t.Context(), b, 1))
	})
}

func TestClose_CancelsLoadsWhenItsCtxEnds(t *testing.T) {
	t.Parallel()
	inBubble(t, Spec[int, string]{}, func(t *testing.T, rdb *redis.Client, s *source, a, b *Cache[int, string]) {
		first := asking(t.Context(), a, 1)
		load := s.next(t)
		elsewhere := asking(t.Context(), b, 1)
		waiting(t, b, 1)
		ctx, cancel := context.WithCancelCause(t.Context())
		closed := make(chan error, 1)
		go func() { closed <- a.Close(ctx) }()
		synctest.Wait()
		require.NoError(t, load.ctx.Err())

		cancel(errSource)
		err := receive(t, closed)
		require.ErrorIs(t, err, errSource)
		e, ok := errors.AsType[*Error](err)
		require.True(t, ok)
		require.Equal(t, Error{Op: "close", Cache: a.Name(), Err: errSource}, *e)
		require.ErrorIs(t, receive(t, first).err, ErrClosed)
		receive(t, load.ctx.Done())
		s.next(t).returns("new", nil) // the lease was free at once
		gets(t, "new", elsewhere)

		synctest.Wait()
		require.ErrorIs(t, a.Close(ctx), errSource, "a load is left behind")
		load.returns("old", nil)
		require.NoError(t, a.Close(t.Context()))
		require.Equal(t, int64(1), a.Stats().Loads)
	})
}

func TestClose_EndsWaitsForLoadsElsewhere(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", Up: s.up, LeaseTTL: longLease}
		a, b := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		first := asking(t.Context(), a, 1)
		load := s.next(t)
		elsewhere := asking(t.Context(), b, 1)
		waiting(t, b, 1)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, b.Close(ended), context.Canceled)
		require.ErrorIs(t, receive(t, elsewhere).err, ErrClosed)
		load.returns("loaded", nil)
		gets(t, "loaded", first)
	})
}

func TestClose_OfAnIdleCacheIsFinal(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, string]{})
		require.NoError(t, c.Set(t.Context(), 1, "kept"))
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, c.Close(ended), "there is nothing to wait for")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := c.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		requireClosed(t, c)
		require.Equal(t, int64(1), rdb.Exists(t.Context(), c.Key(1)).Val())
	})
}
