package middleware

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/loader"
)

func TestRetry_UntilSuccess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for failures := range 3 {
			s := fails(slices.Repeat([]error{errBroken}, failures)...)
			v, err := Chain(s.get, of.Retry(RetryOptions{}))(t.Context(), 21)
			require.NoError(t, err)
			require.Equal(t, 42, v)
			require.Equal(t, failures+1, s.calls)
		}
	})
}

func TestRetry_AtMostAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for attempts, want := range map[int]int{0: 3, 1: 1, 2: 2, 7: 7} {
			s := &source{do: func(_ context.Context, call, _ int) (int, error) {
				return call, fmt.Errorf("failure %d: %w", call, errBroken)
			}}
			v, err := Chain(s.get, of.Retry(RetryOptions{Attempts: attempts}))(t.Context(), 42)
			require.Equal(t, want, s.calls)
			require.Equal(t, want, v, "of the last attempt")
			text := fmt.Sprintf("cachex: retry 42: %d attempts failed, the last one: failure %d: the source is broken", want, want)
			if want == 1 {
				text = "failure 1: the source is broken" // unchanged
			}
			require.EqualError(t, err, text)
			require.ErrorIs(t, err, errBroken)
		}
	})
}

func TestRetry_ErrorsOfAllAttemptsMatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		errs := []error{errors.New("one"), errors.New("two"), errors.New("three")}
		_, err := Chain(fails(errs...).get, of.Retry(RetryOptions{}))(t.Context(), 42)
		for _, want := range errs {
			require.ErrorIs(t, err, want)
		}
		require.EqualError(t, err, "cachex: retry 42: 3 attempts failed, the last one: three")
	})
}

func TestRetry_PausesAreRandomAndTheirBoundDoubles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const runs = 2000
		bounds := []time.Duration{100, 200, 400, 500, 500} // milliseconds
		o := RetryOptions{Attempts: len(bounds) + 1, Base: 100 * time.Millisecond, Max: 500 * time.Millisecond}
		sums, longest := make([]time.Duration, len(bounds)), make([]time.Duration, len(bounds))
		for range runs {
			var ended time.Time
			_, err := Chain(func(context.Context, int) (int, error) {
				return 0, errBroken
			}, of.Retry(o), func(f Func[int, int]) Func[int, int] {
				n := -1
				return func(ctx context.Context, key int) (int, error) {
					if n >= 0 {
						pause := time.Since(ended)
						sums[n] += pause
						longest[n] = max(longest[n], pause)
					}
					n++
					ended = time.Now()
					return f(ctx, key)
				}
			})(t.Context(), 42)
			require.ErrorIs(t, err, errBroken)
		}
		for n, bound := range bounds {
			bound *= time.Millisecond
			require.Less(t, longest[n], bound, "pause %d", n)
			require.Greater(t, longest[n], bound*9/10, "pause %d", n)
			// The times are uniformly distributed: six standard deviations, of
			// 1/√12 each, of the mean.
			off := math.Abs(float64(sums[n])/runs/float64(bound) - 0.5)
			require.Less(t, off, 6/math.Sqrt(12*runs), "pause %d", n)
		}
	})
}

func TestRetry_PausesDoNotOverflow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// Each pause is at most a century or two, and time in the bubble ends
		// in 2262.
		o := RetryOptions{Attempts: 200, Base: 1, Max: math.MaxInt64}
		s := &source{do: func(context.Context, int, int) (int, error) { return 0, errBroken }}
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		_, err := Chain(s.get, of.Retry(o))(ctx, 42)
		require.ErrorIs(t, err, errBroken)
		require.Greater(t, s.calls, 30, "until a pause is longer than the day")
	})
}

func TestRetry_StopsAtAPermanentError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, final := range []error{
			fmt.Errorf("user 42: %w", loader.ErrNotFound), loader.ErrClosed, loader.ErrReentrant,
			failed("breaker", 42, &OpenError{}),
		} {
			s := fails(final)
			_, err := Chain(s.get, of.Retry(RetryOptions{}))(t.Context(), 42)
			require.Equal(t, final, err, "untouched")
			require.Equal(t, 1, s.calls)

			s = fails(errBroken, final)
			_, err = Chain(s.get, of.Retry(RetryOptions{}))(t.Context(), 42)
			require.ErrorIs(t, err, final)
			require.ErrorIs(t, err, errBroken)
			require.Equal(t, 2, s.calls)
		}
		// A deadline inside f is not the end of the caller's ctx.
		s := fails(context.DeadlineExceeded, context.Canceled)
		_, err := Chain(s.get, of.Retry(RetryOptions{}))(t.Context(), 42)
		require.NoError(t, err)
	})
}

func TestRetry_IfDecides(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := RetryOptions{If: func(err error) bool { return errors.Is(err, loader.ErrNotFound) }}
		s := fails(loader.ErrNotFound, errBroken)
		_, err := Chain(s.get, of.Retry(o))(t.Context(), 42)
		require.Equal(t, 2, s.calls)
		require.EqualError(t, err, "cachex: retry 42: 2 attempts failed, the last one: the source is broken")
		require.ErrorIs(t, err, loader.ErrNotFound)
	})
}

func TestRetry_CallsIfOncePerAttemptExceptTheLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked []error
		errs := []error{errors.New("one"), errors.New("two"), errors.New("three")}
		_, err := Chain(fails(errs...).get, of.Retry(RetryOptions{If: func(err error) bool {
			asked = append(asked, err)
			return true
		}}))(t.Context(), 42)
		require.ErrorIs(t, err, errs[2])
		require.Equal(t, errs[:2], asked)
	})
}

func TestRetry_StopsAfterTheEndOfCtx(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &source{do: func(context.Context, int, int) (int, error) {
			cancel()
			return 0, errBroken
		}}
		began := time.Now()
		_, err := Chain(s.get, of.Retry(RetryOptions{}))(ctx, 42)
		require.Equal(t, errBroken, err)
		require.Equal(t, 1, s.calls)
		require.Zero(t, time.Since(began))
	})
}

func TestRetry_StopsIfCtxEndsWithThePause(t *testing.T) {
	t.Parallel()
	for range 100 { // select chooses a ready case at random
		ctx, cancel := context.WithCancel(t.Context())
		o := RetryOptions{Base: 1, Max: 1, If: func(error) bool { // pauses of length 0
			cancel()
			return true
		}}
		s := fails(errBroken)
		_, err := Chain(s.get, of.Retry(o))(ctx, 42)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 1, s.calls)
	}
}

func TestRetry_PausesAtMostTenSecondsByDefault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for base, want := range map[time.Duration]time.Duration{
			8 * time.Second:  10 * time.Second,
			20 * time.Second: 20 * time.Second,
		} {
			var longest time.Duration
			for range 300 {
				var ended time.Time
				s := &source{do: func(_ context.Context, call, _ int) (int, error) {
					if call == 3 {
						longest = max(longest, time.Since(ended))
					}
					ended = time.Now()
					return 0, errBroken
				}}
				_, err := Chain(s.get, of.Retry(RetryOptions{Base: base}))(t.Context(), 42)
				require.ErrorIs(t, err, errBroken)
			}
			require.Less(t, longest, want)
			require.Greater(t, longest, want*9/10)
		}
	})
}

func TestRetry_PauseEndsWithCtx(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("the visitor has left")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Nanosecond, func() { cancel(why) })
		s := fails(errBroken)
		began := time.Now()
		_, err := Chain(s.get, of.Retry(RetryOptions{Base: 1000 * time.Hour, Max: 1000 * time.Hour}))(ctx, 42)
		require.Equal(t, time.Nanosecond, time.Since(began))
		require.Equal(t, 1, s.calls)
		require.ErrorIs(t, err, why)
		require.ErrorIs(t, err, errBroken)
		require.EqualError(t, err, "cachex: retry 42: 1 attempt failed: the source is broken; then, during the pause: the visitor has left")
	})
}

func TestRetry_DoesNotBeginAPauseBeyondTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
		defer cancel()
		s := fails(errBroken)
		began := time.Now()
		_, err := Chain(s.get, of.Retry(RetryOptions{Base: 1000 * time.Hour, Max: 1000 * time.Hour}))(ctx, 42)
		require.Zero(t, time.Since(began))
		require.Equal(t, errBroken, err)
		require.Equal(t, 1, s.calls)
	})
}

func TestTimeout_BelowRetryBoundsAnAttemptAndAboveItAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		slow := func(ctx context.Context, key int) (int, error) {
			attempts++
			return hangs(ctx, key)
		}
		retry := of.Retry(RetryOptions{Base: 1, Max: 1}) // pauses of length 0
		began := time.Now()
		_, err := Chain(slow, retry, of.Timeout(time.Second))(t.Context(), 42)
		require.Equal(t, 3*time.Second, time.Since(began))
		require.Equal(t, 3, attempts)
		require.EqualError(t, err, "cachex: retry 42: 3 attempts failed, the last one: timeout 42: no answer within 1s")

		began, attempts = time.Now(), 0
		_, err = Chain(slow, of.Timeout(time.Second), retry)(t.Context(), 42)
		require.Equal(t, time.Second, time.Since(began))
		require.Equal(t, 1, attempts)
		require.EqualError(t, err, "cachex: timeout 42: no answer within 1s")
	})
}
