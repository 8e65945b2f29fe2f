package middleware_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/loader"
	"github.com/cachex-go/cachex/middleware"
)

// These tests check the order described in the package comment, with a Cache.

var errBroken = errors.New("the source is broken")

var of middleware.Typed[int, string]

// cached returns a cache without an Up, which is closed when the test ends.
func cached(t *testing.T, rdb *redis.Client, spec cachex.Spec[int, string]) *cachex.Cache[int, string] {
	t.Helper()
	spec.Key, spec.TTL = redistest.Key(t)+":{id}", time.Hour
	c, err := cachex.New(rdb, spec)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), redistest.Patience)
		defer cancel()
		require.NoError(t, c.Close(ctx), "a call or a load is left behind")
	})
	return c
}

// answer is a source that works.
func answer(context.Context, int) (string, error) { return "value", nil }

func TestOrder_RetryBelowACacheIsOneLoadAndAboveItSeveral(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		retry := of.Retry(middleware.RetryOptions{Base: time.Millisecond})
		for name, row := range map[string]struct {
			above           bool
			loads, failures int64
		}{
			"below": {false, 1, 0},
			"above": {true, 3, 2},
		} {
			users := cached(t, rdb, cachex.Spec[int, string]{})
			order := []middleware.Middleware[int, string]{middleware.Cached(users), retry}
			if row.above {
				order[0], order[1] = order[1], order[0]
			}
			var calls atomic.Int64
			f := middleware.Chain(func(ctx context.Context, id int) (string, error) {
				if calls.Add(1) < 3 {
					return "", errBroken
				}
				return answer(ctx, id)
			}, order...)
			v, err := f(t.Context(), 1)
			require.NoError(t, err, name)
			require.Equal(t, "value", v)
			v, err = f(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, "value", v)
			require.EqualValues(t, 3, calls.Load(), name)
			require.NoError(t, users.Close(t.Context()))
			require.Equal(t, row.loads, users.Stats().Loads, name)
			require.Equal(t, row.failures, users.Stats().LoadFailures, name)
		}
	})
}

func TestOrder_RetryDoesNotRepeatPermanentErrorsOfACache(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		users := cached(t, rdb, cachex.Spec[int, string]{})
		var calls atomic.Int64
		f := middleware.Chain(func(context.Context, int) (string, error) {
			calls.Add(1)
			return "", cachex.ErrNotFound
		}, of.Retry(middleware.RetryOptions{Base: 1000 * time.Hour, Max: 1000 * time.Hour}), middleware.Cached(users))
		_, err := f(t.Context(), 1)
		require.ErrorIs(t, err, cachex.ErrNotFound)
		require.NoError(t, users.Close(t.Context()))
		_, err = f(t.Context(), 1)
		require.ErrorIs(t, err, cachex.ErrClosed)
		require.EqualValues(t, 1, calls.Load())
	})
}

func TestOrder_TimeoutAboveACacheLeavesTheLoadRunning(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		users := cached(t, rdb, cachex.Spec[int, string]{})
		var loads atomic.Int64
		patient := middleware.Chain(func(ctx context.Context, id int) (string, error) {
			loads.Add(1)
			time.Sleep(10 * time.Second)
			return "value", ctx.Err()
		}, middleware.Cached(users))
		hasty := middleware.Chain(patient, of.Timeout(time.Second))

		var wg sync.WaitGroup
		began := time.Now()
		wg.Go(func() {
			_, err := hasty(t.Context(), 1)
			require.Equal(t, time.Second, time.Since(began))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "cachex: timeout 1: no answer within 1s: get ")
		})
		wg.Go(func() {
			v, err := patient(t.Context(), 1)
			require.GreaterOrEqual(t, time.Since(began), 10*time.Second)
			require.NoError(t, err)
			require.Equal(t, "value", v)
		})
		wg.Wait()
		require.EqualValues(t, 1, loads.Load())
	})
}

func TestOrder_LoadEndsAfterTimeoutsOfAllCallers(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		users := cached(t, rdb, cachex.Spec[int, string]{})
		began := time.Now()
		ended := make(chan time.Duration, 1)
		f := middleware.Chain(func(ctx context.Context, _ int) (string, error) {
			<-ctx.Done()
			ended <- time.Since(began)
			return "", ctx.Err()
		}, of.Timeout(time.Second), middleware.Cached(users))
		_, err := f(t.Context(), 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		require.Equal(t, time.Second, <-ended)
	})
}

// The cache starts a goroutine for the load, and its Close waits for it: a
// source that ignores its ctx does not block the caller.
func TestOrder_TimeoutAboveACacheBoundsAnyCall(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		users := cached(t, rdb, cachex.Spec[int, string]{})
		began := time.Now()
		f := middleware.Chain(func(context.Context, int) (string, error) {
			time.Sleep(time.Hour)
			return "value", nil
		}, of.Timeout(time.Second), middleware.Cached(users))
		_, err := f(t.Context(), 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		require.NoError(t, users.Close(t.Context()))
		require.Equal(t, time.Hour, time.Since(began), "Close has waited for it")
	})
}

func TestOrder_TimeoutBelowACacheBoundsTheLoad(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		users := cached(t, rdb, cachex.Spec[int, string]{})
		var loads atomic.Int64
		f := middleware.Chain(func(ctx context.Context, _ int) (string, error) {
			loads.Add(1)
			<-ctx.Done()
			return "", ctx.Err()
		}, middleware.Cached(users), of.Timeout(time.Second))
		began := time.Now()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := f(t.Context(), 1)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorContains(t, err, ": timeout 1: no answer within 1s")
			})
		}
		wg.Wait()
		require.GreaterOrEqual(t, time.Since(began), time.Second)
		require.Less(t, time.Since(began), time.Minute, "UpTimeout")
		require.EqualValues(t, 1, loads.Load())
	})
}

func TestOrder_LimitBelowACacheBoundsLoadsAndAboveItHitsToo(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		for name, above := range map[string]bool{"below": false, "above": true} {
			users := cached(t, rdb, cachex.Spec[int, string]{})
			require.NoError(t, users.Set(t.Context(), 2, "there"))
			order := []middleware.Middleware[int, string]{middleware.Cached(users), of.Limit(1)}
			if above {
				order[0], order[1] = order[1], order[0]
			}
			done := make(chan struct{})
			f := middleware.Chain(func(context.Context, int) (string, error) {
				<-done
				return "value", nil
			}, order...)
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = f(t.Context(), 1) })
			synctest.Wait() // the load holds the slot

			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			v, err := f(ctx, 2)
			if above {
				require.ErrorContains(t, err, "cachex: limit 2: all 1 slots were busy", name)
			} else {
				require.NoError(t, err, name)
				require.Equal(t, "there", v)
			}
			_, err = f(ctx, 3)
			require.ErrorIs(t, err, context.DeadlineExceeded, "a miss waits either way")
			cancel()
			close(done)
			wg.Wait()
		}
	})
}

func TestOrder_BreakerBelowACacheAllowsHitsAndAboveItRejectsThem(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for name, above := range map[string]bool{"below": false, "above": true} {
			users := cached(t, rdb, cachex.Spec[int, string]{})
			require.NoError(t, users.Set(t.Context(), 2, "there"))
			order := []middleware.Middleware[int, string]{middleware.Cached(users), of.Breaker(middleware.BreakerOptions{Trip: 1, Every: time.Hour})}
			if above {
				order[0], order[1] = order[1], order[0]
			}
			var calls atomic.Int64
			f := middleware.Chain(func(context.Context, int) (string, error) {
				calls.Add(1)
				return "", errBroken
			}, order...)
			_, err := f(t.Context(), 1)
			require.ErrorIs(t, err, errBroken, name)
			_, err = f(t.Context(), 3)
			require.ErrorIs(t, err, middleware.ErrOpen, name)
			require.EqualValues(t, 1, calls.Load(), "the source is spared")
			v, err := f(t.Context(), 2)
			if above {
				require.ErrorIs(t, err, middleware.ErrOpen, name)
				continue
			}
			require.NoError(t, err, name)
			require.Equal(t, "there", v)
		}
	})
}

func TestOrder_OpenBreakerBelowACacheServesStaleValues(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		users := cached(t, rdb, cachex.Spec[int, string]{StaleIfError: time.Hour})
		f := middleware.Chain(func(context.Context, int) (string, error) { return "", errBroken },
			middleware.Cached(users), of.Breaker(middleware.BreakerOptions{Trip: 1, Every: time.Hour}))
		_, err := f(t.Context(), 1)
		require.ErrorIs(t, err, errBroken)
		require.NoError(t, users.Set(t.Context(), 2, "there"))
		require.NoError(t, users.Expire(t.Context(), 2))
		var how cachex.Outcome
		v, err := f(cachex.WithOutcome(t.Context(), &how), 2)
		require.NoError(t, err)
		require.Equal(t, "there", v)
		require.Equal(t, cachex.Stale, how)
	})
}

func TestOrder_LogBelowACacheHasLoadsAndAboveItCalls(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		users := cached(t, rdb, cachex.Spec[int, string]{})
		logger := func(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
		var above, below strings.Builder
		f := middleware.Chain(answer, of.Log(logger(&above)), middleware.Cached(users), of.Log(logger(&below)))
		for range 3 {
			_, err := f(t.Context(), 1)
			require.NoError(t, err)
		}
		require.NoError(t, users.Close(t.Context()))
		require.Equal(t, 3, strings.Count(above.String(), "\n"))
		require.Equal(t, 1, strings.Count(below.String(), "\n"))
		require.NotContains(t, above.String()+below.String(), "value")
	})
}

// door is a Gate that lets one call pass, whatever its key.
type door struct{ shut atomic.Bool }

var errShut = errors.New("the gate is closed")

func (d *door) Do(ctx context.Context, _ int, f func(context.Context) error) error {
	if d.shut.Swap(true) {
		return errShut
	}
	return f(ctx)
}

func TestOrder_OnceBelowACacheBoundsLoadsAndAboveItReturnsTheValueOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		users := cached(t, rdb, cachex.Spec[int, string]{})
		below := middleware.Chain(answer, middleware.Cached(users), of.Once(&door{}))
		for range 2 {
			v, err := below(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, "value", v)
		}
		_, err := below(t.Context(), 2)
		require.ErrorIs(t, err, errShut, "a miss")

		above := middleware.Chain(answer, of.Once(&door{}), middleware.Cached(users))
		v, err := above(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "value", v)
		_, err = above(t.Context(), 1)
		require.Equal(t, errShut, err, "though there is a value")
	})
}

func TestOrder_PanicBelowACacheIsAnErrorAndReleases(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		users := cached(t, rdb, cachex.Spec[int, string]{})
		var calls atomic.Int64
		var out strings.Builder
		f := middleware.Chain(func(ctx context.Context, id int) (string, error) {
			if calls.Add(1) == 1 {
				panic("no value")
			}
			return answer(ctx, id)
		},
			middleware.Cached(users),
			of.Log(slog.New(slog.NewTextHandler(&out, nil))),
			of.Timeout(time.Hour),
			of.Limit(1),
			of.Breaker(middleware.BreakerOptions{Trip: 2}),
		)
		_, err := f(t.Context(), 1)
		p, ok := errors.AsType[*loader.PanicError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, "no value", p.Value)
		require.Contains(t, string(p.Stack), "order_test.go", "the stack of the panic")
		v, err := f(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "value", v)
		require.NoError(t, users.Close(t.Context()))
		require.Equal(t, 1, strings.Count(out.String(), "panicked"))
	})
}

func TestOrder_WrappersFitIntoASpec(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		users := cached(t, rdb, cachex.Spec[int, string]{
			Up: middleware.Chain(answer, of.Limit(1), of.Retry(middleware.RetryOptions{})),
		})
		f := middleware.Chain(users.Get, of.Timeout(time.Minute)) // Get is a Func
		v, err := f(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "value", v)
	})
}
