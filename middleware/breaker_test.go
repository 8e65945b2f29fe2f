package middleware

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/loader"
)

// refused asserts that err is the error of a breaker that is open for
// retryAfter.
func refused(t *testing.T, err error, retryAfter time.Duration) {
	t.Helper()
	require.ErrorIs(t, err, ErrOpen)
	open, ok := errors.AsType[*OpenError](err)
	require.True(t, ok)
	require.Equal(t, retryAfter, open.RetryAfter)
}

func TestBreaker_OpensAfterConsecutiveFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for trip, want := range map[int]int{0: 5, 1: 1, 3: 3} {
			s := &source{do: func(_ context.Context, _, key int) (int, error) {
				if key < 0 {
					return 0, errBroken
				}
				return key, nil
			}}
			f := Chain(s.get, of.Breaker(BreakerOptions{Trip: trip}))
			for range 2 {
				for range want - 1 {
					_, err := f(t.Context(), -1)
					require.Equal(t, errBroken, err)
				}
				_, err := f(t.Context(), 1)
				require.NoError(t, err, "a success lies between")
			}
			for range want {
				_, err := f(t.Context(), -1)
				require.Equal(t, errBroken, err)
			}
			calls := s.calls
			_, err := f(t.Context(), 1)
			refused(t, err, time.Second)
			require.EqualError(t, err, "cachex: breaker 1: breaker is open, for 1s")
			require.Equal(t, calls, s.calls)
		}
	})
}

func TestBreaker_ProbesOneCallAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		works := false
		s := &source{do: func(_ context.Context, _, key int) (int, error) {
			time.Sleep(time.Second)
			if works {
				return key, nil
			}
			return 0, errBroken
		}}
		f := Chain(s.get, of.Breaker(BreakerOptions{Trip: 1, Every: time.Minute}))
		_, err := f(t.Context(), 1)
		require.Equal(t, errBroken, err)
		for range 3 {
			time.Sleep(time.Minute - time.Nanosecond)
			_, err = f(t.Context(), 2)
			refused(t, err, time.Nanosecond)
			time.Sleep(time.Nanosecond)
			var wg sync.WaitGroup
			wg.Go(func() {
				_, err := f(t.Context(), 3)
				require.Equal(t, errBroken, err)
			})
			synctest.Wait()
			_, err = f(t.Context(), 4)
			refused(t, err, 0)
			require.EqualError(t, err, "cachex: breaker 4: breaker is open, a probe is in flight")
			wg.Wait()
			_, err = f(t.Context(), 5)
			refused(t, err, time.Minute)
		}
		require.Equal(t, 4, s.calls)
		works = true
		time.Sleep(time.Minute)
		for range 3 {
			v, err := f(t.Context(), 6)
			require.NoError(t, err)
			require.Equal(t, 6, v)
		}
	})
}

func TestBreaker_NeutralResultsDoNotOpenIt(t *testing.T) {
	t.Parallel()
	left, leave := context.WithCancel(t.Context())
	leave()
	none := fmt.Errorf("user 42: %w", loader.ErrNotFound)
	for name, row := range map[string]struct {
		ctx context.Context
		err error
		o   BreakerOptions
	}{
		"not found":          {t.Context(), none, BreakerOptions{Trip: 1}},
		"the caller's leave": {left, context.Canceled, BreakerOptions{Trip: 1}},
		"whatever came then": {left, errBroken, BreakerOptions{Trip: 1}},
		"no failure":         {t.Context(), errBroken, BreakerOptions{Trip: 1, Failure: func(err error) bool { return err != errBroken }}},
	} {
		f := Chain(func(context.Context, int) (int, error) { return 0, row.err }, of.Breaker(row.o))
		for range 3 {
			_, err := f(row.ctx, 42)
			require.Equal(t, row.err, err, name)
		}
	}
}

func TestBreaker_FailuresOpenIt(t *testing.T) {
	t.Parallel()
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for name, row := range map[string]struct {
		ctx context.Context
		err error
		o   BreakerOptions
	}{
		"a failure":                   {t.Context(), errBroken, BreakerOptions{Trip: 1, Every: time.Hour}},
		"a caller who waited in vain": {late, context.DeadlineExceeded, BreakerOptions{Trip: 1, Every: time.Hour}},
		"a cancellation within":       {t.Context(), context.Canceled, BreakerOptions{Trip: 1, Every: time.Hour}},
		"what Failure says":           {t.Context(), loader.ErrNotFound, BreakerOptions{Trip: 1, Every: time.Hour, Failure: func(error) bool { return true }}},
	} {
		f := Chain(func(context.Context, int) (int, error) { return 0, row.err }, of.Breaker(row.o))
		_, err := f(row.ctx, 42)
		require.Equal(t, row.err, err, name)
		_, err = f(t.Context(), 42)
		require.ErrorIs(t, err, ErrOpen, name)
	}
}

func TestBreaker_NotFoundIsASuccess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := Chain(fails(errBroken, loader.ErrNotFound, errBroken, errBroken, loader.ErrNotFound).get, of.Breaker(BreakerOptions{Trip: 2}))
		for range 2 {
			_, err := f(t.Context(), 1)
			require.Error(t, err)
		}
		for range 2 {
			_, err := f(t.Context(), 1)
			require.Equal(t, errBroken, err, "the first failure is forgotten")
		}
		_, err := f(t.Context(), 1)
		refused(t, err, time.Second)
		time.Sleep(time.Second)
		_, err = f(t.Context(), 1)
		require.Equal(t, loader.ErrNotFound, err)
		_, err = f(t.Context(), 1)
		require.NoError(t, err, "it is closed")
	})
}

func TestBreaker_CancelledCallKeepsTheCount(t *testing.T) {
	t.Parallel()
	left, leave := context.WithCancel(t.Context())
	leave()
	f := Chain(broken, of.Breaker(BreakerOptions{Trip: 2, Every: time.Hour}))
	for _, ctx := range []context.Context{t.Context(), left, t.Context()} {
		_, err := f(ctx, 1)
		require.Equal(t, errBroken, err)
	}
	_, err := f(t.Context(), 1)
	require.ErrorIs(t, err, ErrOpen)
}

// A probe that leaves must not keep others waiting.
func TestBreaker_ReplacesAProbeThatLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		works := false
		f := Chain(func(ctx context.Context, key int) (int, error) {
			if works {
				return key, nil
			}
			return hangs(ctx, key)
		}, of.Breaker(BreakerOptions{Trip: 1, Every: time.Minute}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := f(ctx, 1)
		require.Equal(t, context.DeadlineExceeded, err)

		time.Sleep(time.Minute)
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, leave)
		_, err = f(ctx, 1)
		require.Equal(t, context.Canceled, err)
		_, err = f(t.Context(), 2)
		refused(t, err, time.Minute)
		works = true
		time.Sleep(time.Minute)
		_, err = f(t.Context(), 3)
		require.NoError(t, err)
	})
}

func TestBreaker_ReplacesAProbeThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := Chain(func(ctx context.Context, key int) (int, error) {
			switch key {
			case 1:
				return 0, errBroken
			case 2:
				return hangs(ctx, key)
			}
			return key, nil
		}, of.Breaker(BreakerOptions{Trip: 1}))
		_, err := f(t.Context(), 1)
		require.Equal(t, errBroken, err)
		time.Sleep(time.Second)
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = f(ctx, 2) })
		synctest.Wait()
		time.Sleep(10*time.Second - time.Nanosecond)
		_, err = f(t.Context(), 3)
		require.ErrorIs(t, err, ErrOpen)
		time.Sleep(time.Nanosecond)
		_, err = f(t.Context(), 3)
		require.NoError(t, err)
		leave()
		wg.Wait()
		_, err = f(t.Context(), 3)
		require.NoError(t, err, "the one that hung says nothing any more")
	})
}

func TestBreaker_SharedByItsFunctions(t *testing.T) {
	t.Parallel()
	b := of.Breaker(BreakerOptions{Trip: 2, Every: time.Hour})
	f, g := Chain(broken, b), Chain(double, b)
	for range 2 {
		_, err := f(t.Context(), 1)
		require.Equal(t, errBroken, err)
	}
	_, err := g(t.Context(), 1)
	require.ErrorIs(t, err, ErrOpen)
}

func TestRetry_StopsAtAnOpenBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{do: func(context.Context, int, int) (int, error) { return 0, errBroken }}
		f := Chain(s.get, of.Retry(RetryOptions{Attempts: 10}), of.Breaker(BreakerOptions{Trip: 2, Every: time.Hour}))
		_, err := f(t.Context(), 1)
		require.Equal(t, 2, s.calls)
		require.ErrorIs(t, err, errBroken)
		require.ErrorIs(t, err, ErrOpen)
		began := time.Now()
		_, err = f(t.Context(), 1)
		require.ErrorIs(t, err, ErrOpen)
		require.Zero(t, time.Since(began))
		require.Equal(t, 2, s.calls)
	})
}
