package middleware

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLimit_BoundsConcurrentCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		slow := func(_ context.Context, key int) (int, error) {
			n := now.Add(1)
			defer now.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			time.Sleep(time.Second)
			return key, nil
		}
		limit := of.Limit(3)
		f, g := Chain(slow, limit), Chain(slow, limit) // they share the slots
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				v, err := f(t.Context(), i)
				require.NoError(t, err)
				require.Equal(t, i, v)
			})
			wg.Go(func() {
				_, err := g(t.Context(), i)
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.EqualValues(t, 3, most.Load())
		require.Equal(t, 4*time.Second, time.Since(began))
	})
}

func TestLimit_WaiterLeavesOnItsOwnCtx(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("the visitor has left")
		var calls atomic.Int64
		f := Chain(func(ctx context.Context, key int) (int, error) {
			calls.Add(1)
			time.Sleep(time.Minute)
			return key, nil
		}, of.Limit(1))
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = f(t.Context(), 1) })
		synctest.Wait()

		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		began := time.Now()
		_, err := f(ctx, 42)
		require.Equal(t, time.Second, time.Since(began))
		require.EqualError(t, err, "cachex: limit 42: all 1 slots were busy: the visitor has left")
		require.ErrorIs(t, err, why)
		require.EqualValues(t, 1, calls.Load())
		wg.Wait()
		_, err = f(t.Context(), 2)
		require.NoError(t, err, "no place is lost by that")
	})
}

func TestLimit_FreesTheSlotAfterEveryEnd(t *testing.T) {
	t.Parallel()
	f := Chain(fails(errBroken, errBroken).get, of.Limit(1))
	for _, want := range []error{errBroken, errBroken, nil} {
		_, err := f(t.Context(), 1)
		require.Equal(t, want, err)
	}
}

func TestLimit_BelowRetryFreesTheSlotInThePause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, row := range map[string]struct {
			order []Middleware[int, int]
			waits bool
		}{
			"below": {[]Middleware[int, int]{of.Retry(RetryOptions{Base: 1000 * time.Hour, Max: 1000 * time.Hour}), of.Limit(1)}, false},
			"above": {[]Middleware[int, int]{of.Limit(1), of.Retry(RetryOptions{Base: 1000 * time.Hour, Max: 1000 * time.Hour})}, true},
		} {
			f := Chain(func(_ context.Context, key int) (int, error) {
				if key == 1 {
					return 0, errBroken
				}
				return key, nil
			}, row.order...)
			paused, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = f(paused, 1) })
			synctest.Wait() // it pauses
			ctx, leave := context.WithTimeout(t.Context(), time.Nanosecond)
			_, err := f(ctx, 2)
			require.Equal(t, row.waits, err != nil, name)
			leave()
			cancel()
			wg.Wait()
		}
	})
}
