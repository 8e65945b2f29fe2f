package middleware

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/loader"
)

func TestTimeout_EndsASlowCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := Chain(hangs, of.Timeout(time.Second))(t.Context(), 42)
		require.Equal(t, time.Second, time.Since(began))
		require.EqualError(t, err, "cachex: timeout 42: no answer within 1s")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestTimeout_CauseNamesTheTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, err := Chain(func(ctx context.Context, _ int) (int, error) {
			<-ctx.Done()
			require.Equal(t, context.DeadlineExceeded, ctx.Err())
			require.ErrorIs(t, context.Cause(ctx), context.DeadlineExceeded)
			require.EqualError(t, context.Cause(ctx), "no answer within 1s")
			return 0, context.Cause(ctx)
		}, of.Timeout(time.Second))(t.Context(), 42)
		require.EqualError(t, err, "cachex: timeout 42: no answer within 1s")
	})
}

func TestTimeout_KeepsTheErrorInTheChain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		late := func(err error) (int, error) {
			return Chain(func(context.Context, int) (int, error) {
				time.Sleep(time.Second)
				return 7, err
			}, of.Timeout(time.Second))(t.Context(), 42)
		}
		v, err := late(errBroken)
		require.EqualError(t, err, "cachex: timeout 42: no answer within 1s: the source is broken")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, errBroken)
		require.Equal(t, 7, v)

		none := fmt.Errorf("user 42: %w", loader.ErrNotFound)
		_, err = late(none)
		require.Equal(t, none, err, "that is an answer")

		v, err = late(nil)
		require.NoError(t, err, "and so is a value")
		require.Equal(t, 7, v)
	})
}

func TestTimeout_PassesOnTheEndOfTheCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("the visitor has left")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		_, err := Chain(func(ctx context.Context, key int) (int, error) {
			<-ctx.Done()
			time.Sleep(time.Hour) // this Timeout ends too
			return 0, context.Cause(ctx)
		}, of.Timeout(time.Minute))(ctx, 42)
		require.Equal(t, why, err)

		_, err = Chain(broken, of.Timeout(time.Minute))(t.Context(), 42)
		require.Equal(t, errBroken, err)
	})
}

func TestTimeout_KeepsAnEarlierDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, own := range []time.Duration{time.Second, time.Minute} {
			ctx, cancel := context.WithTimeout(t.Context(), own)
			began := time.Now()
			_, err := Chain(func(inner context.Context, key int) (int, error) {
				require.Equal(t, ctx, inner, "there is nothing to bound")
				return hangs(inner, key)
			}, of.Timeout(time.Minute))(ctx, 42)
			require.Equal(t, own, time.Since(began))
			require.Equal(t, context.DeadlineExceeded, err)
			cancel()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		_, err := Chain(hangs, of.Timeout(time.Minute))(ctx, 42)
		require.Equal(t, time.Minute, time.Since(began), "and a later one is brought forward")
		require.EqualError(t, err, "cachex: timeout 42: no answer within 1m0s")
	})
}

func TestTimeout_NestedOnesReportTheOneThatEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		same := of.Timeout(time.Second) // one Middleware, two functions
		inner := Chain(hangs, same)
		_, err := Chain(func(ctx context.Context, key int) (int, error) {
			time.Sleep(time.Millisecond) // so that the outer one ends first
			return inner(ctx, key)
		}, same)(t.Context(), 42)
		require.EqualError(t, err, "cachex: timeout 42: no answer within 1s")
		_, err = Chain(hangs, of.Timeout(time.Minute), of.Timeout(time.Second))(t.Context(), 42)
		require.EqualError(t, err, "cachex: timeout 42: no answer within 1s")
	})
}

func TestTimeout_CtxEndsWithTheCall(t *testing.T) {
	t.Parallel()
	var inner context.Context
	_, err := Chain(func(ctx context.Context, _ int) (int, error) {
		inner = ctx
		return 0, nil
	}, of.Timeout(time.Hour))(t.Context(), 42)
	require.NoError(t, err)
	require.Equal(t, context.Canceled, inner.Err(), "its timer is stopped")
}

// It follows from starting no goroutine: see Timeout.
func TestTimeout_WaitsForAFunctionThatIgnoresItsCtx(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		v, err := Chain(func(context.Context, int) (int, error) {
			time.Sleep(time.Hour)
			return 7, nil
		}, of.Timeout(time.Second))(t.Context(), 42)
		require.Equal(t, time.Hour, time.Since(began))
		require.NoError(t, err)
		require.Equal(t, 7, v)
	})
}
