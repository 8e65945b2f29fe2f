package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/guard"
)

// slow is a load that takes d and obeys its ctx.
func slow(d time.Duration, v string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		select {
		case <-time.After(d):
			return v, nil
		case <-ctx.Done():
			return v, ctx.Err()
		}
	}
}

// unheard is a load that fails the test.
func unheard(t *testing.T) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		t.Error("a load runs that must not")
		return "", nil
	}
}

// empty asserts that fs has forgotten everything.
func empty[V any](t *testing.T, fs *Flights[V]) {
	t.Helper()
	synctest.Wait()
	require.Empty(t, fs.group.joinable)
	require.Empty(t, fs.group.active)
	require.False(t, fs.group.anyActive.Load())
	require.Zero(t, fs.group.goroutines)
}

func TestFlights_CallersOfOneKeyShareALoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		var loads atomic.Int32
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				// they need not come at the same moment
				time.Sleep(time.Duration(i) * 50 * time.Millisecond)
				v, err := fs.Do(t.Context(), "a", func(ctx context.Context) (string, error) {
					loads.Add(1)
					return slow(time.Second, "v")(ctx)
				})
				assert.NoError(t, err)
				assert.Equal(t, "v", v)
				assert.Equal(t, time.Second, time.Since(begin))
			})
		}
		wg.Wait()
		require.Equal(t, int32(1), loads.Load())
		empty(t, &fs)
	})
}

func TestFlights_CallersOfDifferentKeysDoNotShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		begin := time.Now()
		a := start(func() (string, error) { return fs.Do(t.Context(), "a", slow(time.Second, "of a")) })
		b := start(func() (string, error) { return fs.Do(t.Context(), "b", slow(time.Second, "of b")) })
		v, _ := a.wait(t)
		require.Equal(t, "of a", v)
		v, _ = b.wait(t)
		require.Equal(t, "of b", v)
		require.Equal(t, time.Second, time.Since(begin), "neither waits for the other")
	})
}

func TestFlights_CallerAfterTheLoadLoadsAgain(t *testing.T) {
	t.Parallel()
	var fs Flights[int]
	for i := range 3 {
		v, err := fs.Do(t.Context(), "a", func(context.Context) (int, error) { return i, nil })
		require.NoError(t, err)
		require.Equal(t, i, v)
	}
}

func TestFlights_ErrorIsSharedWithAZeroValue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		fail := func(context.Context) (string, error) {
			time.Sleep(time.Second)
			return "half a value", errBroken
		}
		a := start(func() (string, error) { return fs.Do(t.Context(), "a", fail) })
		synctest.Wait()
		b := start(func() (string, error) { return fs.Do(t.Context(), "a", unheard(t)) })
		for _, c := range []*call[string]{a, b} {
			v, err := c.wait(t)
			require.Equal(t, errBroken, err, "the error is passed on as it is")
			require.Empty(t, v)
		}
		v, err := fs.Do(t.Context(), "a", slow(0, "v"))
		require.NoError(t, err, "an error is not remembered")
		require.Equal(t, "v", v)
	})
}

func TestFlights_CallerLeavesOnItsContextAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		begin := time.Now()
		hasty, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		// The caller with the deadline is the one that started the load.
		a := start(func() (string, error) { return fs.Do(hasty, "a", slow(time.Second, "v")) })
		synctest.Wait()
		b := start(func() (string, error) { return fs.Do(t.Context(), "a", unheard(t)) })
		_, err := a.wait(t)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 100*time.Millisecond, time.Since(begin))
		v, err := b.wait(t)
		require.NoError(t, err)
		require.Equal(t, "v", v)
		require.Equal(t, time.Second, time.Since(begin))
	})
}

func TestFlights_CallerWhoLeavesGetsTheCause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		ctx, cancel := context.WithCancelCause(t.Context())
		c := start(func() (string, error) { return fs.Do(ctx, "a", slow(time.Second, "v")) })
		synctest.Wait()
		cancel(errBroken)
		_, err := c.wait(t)
		require.Equal(t, errBroken, err)
	})
}

func TestFlights_EndedContextLoadsNothing(t *testing.T) {
	t.Parallel()
	var fs Flights[string]
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errBroken)
	_, err := fs.Do(ctx, "a", unheard(t))
	require.Equal(t, errBroken, err)
}

func TestFlights_LoadIsCancelledWhenTheLastCallerLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		begin := time.Now()
		cancelled := make(chan error, 1)
		load := func(ctx context.Context) (string, error) {
			<-ctx.Done()
			cancelled <- context.Cause(ctx)
			assert.Equal(t, 2*time.Second, time.Since(begin))
			return "", ctx.Err()
		}
		for _, d := range []time.Duration{time.Second, 2 * time.Second} {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			start(func() (string, error) { return fs.Do(ctx, "a", load) })
			synctest.Wait()
		}
		require.ErrorIs(t, within(t, cancelled), errAbandoned)
		empty(t, &fs)
	})
}

func TestFlights_NoCallerJoinsACancelledFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		ctx, cancel := context.WithCancel(t.Context())
		a := start(func() (string, error) {
			return fs.Do(ctx, "a", func(context.Context) (string, error) {
				time.Sleep(time.Minute) // it ignores its ctx
				return "of nobody", nil
			})
		})
		synctest.Wait()
		cancel()
		_, err := a.wait(t)
		require.ErrorIs(t, err, context.Canceled)
		v, err := fs.Do(t.Context(), "a", slow(0, "anew"))
		require.NoError(t, err)
		require.Equal(t, "anew", v)
		require.NoError(t, fs.Close(t.Context()))
	})
}

type ctxKey struct{}

func TestFlights_LoadSeesValuesButNotDeadlineOfTheFirstCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), ctxKey{}, "of the first"), time.Second)
		defer cancel()
		first := start(func() (string, error) {
			return fs.Do(ctx, "a", func(ctx context.Context) (string, error) {
				_, bounded := ctx.Deadline()
				assert.False(t, bounded)
				time.Sleep(2 * time.Second)
				assert.NoError(t, ctx.Err())
				return ctx.Value(ctxKey{}).(string), nil
			})
		})
		synctest.Wait()
		v, err := fs.Do(context.WithValue(t.Context(), ctxKey{}, "of the second"), "a", unheard(t))
		require.NoError(t, err)
		require.Equal(t, "of the first", v)
		_, err = first.wait(t)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestFlights_TimeoutIsDeadlineExceeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fs := Flights[string]{Timeout: 2 * time.Second}
		begin := time.Now()
		_, err := fs.Do(t.Context(), "a", func(ctx context.Context) (string, error) {
			deadline, _ := ctx.Deadline()
			assert.Equal(t, 2*time.Second, deadline.Sub(begin))
			return slow(time.Minute, "v")(ctx)
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualError(t, err, "load took longer than 2s: context deadline exceeded")
		require.Equal(t, 2*time.Second, time.Since(begin))
		empty(t, &fs)
	})
}

func TestFlights_LoadThatIgnoresItsContextIsLeftBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fs := Flights[string]{Timeout: time.Second}
		begin := time.Now()
		deaf := func(context.Context) (string, error) {
			time.Sleep(time.Minute)
			return "late", nil
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := fs.Do(t.Context(), "a", deaf)
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.Equal(t, time.Second, time.Since(begin))
			})
		}
		wg.Wait()
		v, err := fs.Do(t.Context(), "a", slow(0, "anew"))
		require.NoError(t, err)
		require.Equal(t, "anew", v, "the load left behind disturbs no caller")
		require.NoError(t, fs.Close(t.Context()))
		require.Equal(t, time.Minute, time.Since(begin), "Close waits for it")
	})
}

func TestFlights_ErrorOfALoadsOwnContextStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fs := Flights[string]{Timeout: time.Minute}
		_, err := fs.Do(t.Context(), "a", func(ctx context.Context) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			return slow(time.Hour, "v")(ctx)
		})
		require.Equal(t, context.DeadlineExceeded, err)
	})
}

func TestFlights_PanicIsOneErrorForEveryCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		a := start(func() (string, error) { return fs.Do(t.Context(), "a", explode) })
		synctest.Wait()
		b := start(func() (string, error) { return fs.Do(t.Context(), "a", unheard(t)) })
		_, errA := a.wait(t)
		_, errB := b.wait(t)
		p, ok := errors.AsType[*PanicError](errA)
		require.True(t, ok)
		require.Same(t, p, errB)
		require.Equal(t, "boom", p.Value)
		require.EqualError(t, p, "load panicked: boom")
		require.Contains(t, string(p.Stack), "engine.explode", "the stack is that of the load")
		require.NoError(t, p.Unwrap())
		empty(t, &fs)
	})
}

func explode(context.Context) (string, error) {
	time.Sleep(time.Second)
	panic("boom")
}

func TestPanicError_UnwrapsAPanickedError(t *testing.T) {
	t.Parallel()
	var fs Flights[string]
	_, err := fs.Do(t.Context(), "a", func(context.Context) (string, error) {
		panic(fmt.Errorf("in a query: %w", errBroken))
	})
	require.ErrorIs(t, err, errBroken)
	_, err = fs.Do(t.Context(), "a", func(context.Context) (string, error) {
		none := []int(nil)
		_ = none[len("index out of range")]
		return "", nil
	})
	_, ok := errors.AsType[runtime.Error](err)
	require.True(t, ok, "panics of the runtime are errors, too")
}

func TestFlights_GoexitIsAnError(t *testing.T) {
	t.Parallel()
	var fs Flights[string]
	_, err := fs.Do(t.Context(), "a", func(context.Context) (string, error) {
		runtime.Goexit()
		return "", nil
	})
	require.ErrorIs(t, err, ErrGoexit)
	require.EqualError(t, err, "load called runtime.Goexit")
	v, err := fs.Do(t.Context(), "a", slow(0, "v"))
	require.NoError(t, err)
	require.Equal(t, "v", v)
}

func TestFlights_LoadOfItsOwnKeyIsReentrant(t *testing.T) {
	t.Parallel()
	var fs Flights[string]
	_, err := fs.Do(t.Context(), "a", func(ctx context.Context) (string, error) {
		return fs.Do(ctx, "a", unheard(t))
	})
	require.Equal(t, ErrReentrant, err)
	_, err = fs.Do(t.Context(), "a", func(ctx context.Context) (string, error) {
		return fs.Do(ctx, "b", func(ctx context.Context) (string, error) {
			ctx, cancel := context.WithCancel(ctx) // also of a ctx made from it
			defer cancel()
			return fs.Do(ctx, "a", unheard(t))
		})
	})
	require.Equal(t, ErrReentrant, err, "through another key, too")
}

func TestFlights_LoadMayAskForOtherKeysAndFlights(t *testing.T) {
	t.Parallel()
	var fs, others Flights[string]
	v, err := fs.Do(t.Context(), "a", func(ctx context.Context) (string, error) {
		b, err := fs.Do(ctx, "b", slow(0, "of b"))
		assert.NoError(t, err)
		a, err := others.Do(ctx, "a", slow(0, "of others"))
		return b + " " + a, err
	})
	require.NoError(t, err)
	require.Equal(t, "of b of others", v)
}

func TestForget_LaterCallersLoadAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		fs.Forget("a") // which is not being loaded
		old := start(func() (string, error) { return fs.Do(t.Context(), "a", slow(2*time.Second, "old")) })
		other := start(func() (string, error) { return fs.Do(t.Context(), "b", slow(2*time.Second, "of b")) })
		synctest.Wait()
		fs.Forget("x", "a")
		begun := start(func() (string, error) { return fs.Do(t.Context(), "a", slow(5*time.Second, "new")) })
		time.Sleep(3 * time.Second) // the old flight has ended, and must not remove the new one
		joined := start(func() (string, error) { return fs.Do(t.Context(), "a", unheard(t)) })
		joinedB := start(func() (string, error) { return fs.Do(t.Context(), "b", slow(0, "of b again")) })
		for c, want := range map[*call[string]]string{old: "old", begun: "new", joined: "new", other: "of b", joinedB: "of b again"} {
			v, err := c.wait(t)
			require.NoError(t, err)
			require.Equal(t, want, v)
		}
		empty(t, &fs)
	})
}

func TestFlights_ZeroValueIsReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		fs.Forget("a")
		begin := time.Now()
		v, err := fs.Do(t.Context(), "a", slow(1000*time.Hour, "v"))
		require.NoError(t, err, "there is no bound")
		require.Equal(t, "v", v)
		require.Equal(t, 1000*time.Hour, time.Since(begin))
		require.NoError(t, fs.Close(t.Context()))
	})
}

func TestFlightsClose_IdleReturnsAtOnce(t *testing.T) {
	t.Parallel()
	var fs Flights[string]
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, fs.Close(ended), "there is nothing to wait for")
	require.NoError(t, fs.Close(t.Context()), "twice is fine")
	_, err := fs.Do(t.Context(), "a", unheard(t))
	require.Equal(t, ErrClosed, err)
}

func TestFlightsClose_WaitsForLoads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		begin := time.Now()
		a := start(func() (string, error) { return fs.Do(t.Context(), "a", slow(time.Second, "of a")) })
		b := start(func() (string, error) { return fs.Do(t.Context(), "b", slow(time.Minute, "of b")) })
		synctest.Wait()
		var wg sync.WaitGroup
		for range 3 { // from several goroutines
			wg.Go(func() {
				assert.NoError(t, fs.Close(t.Context()))
				assert.Equal(t, time.Minute, time.Since(begin))
			})
		}
		synctest.Wait()
		_, err := fs.Do(t.Context(), "a", unheard(t))
		require.Equal(t, ErrClosed, err, "no caller joins any more")
		wg.Wait()
		for c, want := range map[*call[string]]string{a: "of a", b: "of b"} {
			v, err := c.wait(t)
			require.NoError(t, err)
			require.Equal(t, want, v)
		}
	})
}

func TestFlightsClose_EndedContextCancelsTheLoads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		begin := time.Now()
		good := start(func() (string, error) { return fs.Do(t.Context(), "a", slow(time.Hour, "v")) })
		deaf := start(func() (string, error) {
			return fs.Do(t.Context(), "b", func(context.Context) (string, error) {
				time.Sleep(time.Minute)
				return "late", nil
			})
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errBroken)
		defer cancel()
		require.Equal(t, errBroken, fs.Close(ctx))
		for _, c := range []*call[string]{good, deaf} {
			_, err := c.wait(t)
			require.Equal(t, ErrClosed, err)
		}
		require.Equal(t, time.Second, time.Since(begin))
		require.NoError(t, fs.Close(t.Context()))
		require.Equal(t, time.Minute, time.Since(begin), "a second Close waits for the load that does not heed its ctx")
	})
}

func TestFlightsBegin_ReportsWhetherTheCallerStartedTheFlight(t *testing.T) {
	t.Parallel()
	var fs Flights[int]
	value := make(chan int)
	load := func(context.Context) (int, error) { return <-value, nil }
	own, first := fs.Begin(t.Context(), "k", load)
	require.True(t, own)
	own, second := fs.Begin(t.Context(), "k", load)
	require.False(t, own)
	value <- 7
	for _, wait := range []func() (int, error){first, second} {
		v, err := wait()
		require.NoError(t, err)
		require.Equal(t, 7, v)
	}
	require.NoError(t, fs.Close(t.Context()))
	own, wait := fs.Begin(t.Context(), "k", load)
	require.False(t, own)
	_, err := wait()
	require.ErrorIs(t, err, ErrClosed)
	ran := false
	fs.Spawn(guard.Client, func() error { ran = true; return nil }, func(error) {})
	require.True(t, ran, "after Close, in the goroutine of the caller")
}
