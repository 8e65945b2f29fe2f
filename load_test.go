package cachex

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/loader"
)

var errSource = errors.New("the source is away")

// outcomes are the ways in which Up can end, and what callers then get.
var outcomes = []struct {
	name    string
	does    func() (string, error)
	value   string // none if it is an error
	failure bool   // to be counted as such
	err     func(t *testing.T, err error)
}{
	{name: "value", does: func() (string, error) { return "loaded", nil }, value: "loaded"},
	{name: "panic", failure: true, does: func() (string, error) { panic("boom") }, err: func(t *testing.T, err error) {
		p, ok := errors.AsType[*loader.PanicError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, "boom", p.Value)
		require.Contains(t, string(p.Stack), "load_test.go")
	}},
	{name: "panic with an error", failure: true, does: func() (string, error) { panic(errSource) }, err: is(errSource)},
	{name: "Goexit", failure: true, does: func() (string, error) { runtime.Goexit(); return "", nil }, err: is(loader.ErrGoexit)},
	{name: "not found", does: func() (string, error) { return "", ErrNotFound }, err: is(ErrNotFound)},
	{name: "not found, wrapped", err: is(ErrNotFound), does: func() (string, error) {
		return "", fmt.Errorf("no row: %w", ErrNotFound)
	}},
	{name: "error", failure: true, does: func() (string, error) { return "", errSource }, err: is(errSource)},
	{name: "value and error", failure: true, does: func() (string, error) { return "half", errSource }, err: is(errSource)},
	{name: "an end of some other ctx", failure: true, err: is(context.Canceled), does: func() (string, error) {
		return "", context.Canceled
	}},
}

func is(target error) func(*testing.T, error) {
	return func(t *testing.T, err error) { require.ErrorIs(t, err, target) }
}

// eachOutcome runs f for each outcome on both servers. check requires that an
// answer of c for key 1 is that outcome.
func eachOutcome(t *testing.T, f func(t *testing.T, rdb *redis.Client, does func() (string, error), value string, failures int64,
	check func(c *Cache[int, string], ch <-chan answer))) {
	for _, o := range outcomes {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				failures := int64(0)
				if o.failure {
					failures = 1
				}
				f(t, rdb, o.does, o.value, failures, func(c *Cache[int, string], ch <-chan answer) {
					t.Helper()
					got := receive(t, ch)
					require.Equal(t, o.value, got.v)
					if o.err == nil {
						require.NoError(t, got.err)
						return
					}
					o.err(t, got.err)
					e, ok := errors.AsType[*Error](got.err)
					require.True(t, ok)
					require.Equal(t, Error{Op: "get", Cache: c.Name(), Key: c.Key(1), Err: e.Err}, *e)
				})
			})
		})
	}
}

func TestUp_CallersOfOneCacheShareItsResult(t *testing.T) {
	t.Parallel()
	eachOutcome(t, func(t *testing.T, rdb *redis.Client, does func() (string, error), value string, failures int64,
		check func(*Cache[int, string], <-chan answer)) {
		s := newSource(t)
		c := newCache(t, rdb, Spec[int, string]{Up: s.up, LeaseTTL: longLease})
		first := asking(t.Context(), c, 1)
		load := s.next(t)
		second := asking(t.Context(), c, 1)
		joined(t, c, 2)
		load.does(does)
		check(c, first)
		check(c, second)
		require.Equal(t, failures, c.Stats().LoadFailures)
		if value != "" {
			gets(t, value, asking(t.Context(), c, 1))
			require.Equal(t, int64(1), c.Stats().Loads)
			return
		}
		require.Zero(t, rdb.Exists(t.Context(), c.Key(1)).Val(), "the lease is free before the callers are")
		again := asking(t.Context(), c, 1)
		s.next(t).returns("new", nil)
		gets(t, "new", again)
		require.Equal(t, int64(2), c.Stats().Loads)
		require.Equal(t, failures, c.Stats().LoadFailures)
	})
}

func TestUp_CallerElsewhereGetsTheValueOrLoadsAfterAFailure(t *testing.T) {
	t.Parallel()
	eachOutcome(t, func(t *testing.T, rdb *redis.Client, does func() (string, error), value string, _ int64,
		check func(*Cache[int, string], <-chan answer)) {
		s := newSource(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", Up: s.up, LeaseTTL: longLease}
		here, there := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		first := asking(t.Context(), here, 1)
		load := s.next(t)
		elsewhere := asking(t.Context(), there, 1)
		waiting(t, there, 1)
		load.does(does)
		check(here, first)
		if value != "" {
			gets(t, value, elsewhere)
			require.Empty(t, s.calls)
			return
		}
		s.next(t).returns("new", nil)
		gets(t, "new", elsewhere)
		gets(t, "new", asking(t.Context(), here, 1))
	})
}

func TestUp_OutlivesItsFirstCallerAndSeesItsValues(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource(t)
		c := newCache(t, rdb, Spec[int, string]{Up: s.up, LeaseTTL: longLease, UpTimeout: 2 * time.Hour})
		type tenant struct{}
		ctx, stop := context.WithTimeout(context.WithValue(t.Context(), tenant{}, "acme"), time.Hour)
		defer stop()
		ctx, cancel := context.WithCancelCause(ctx)
		first := asking(ctx, c, 1)
		load := s.next(t)
		second := asking(t.Context(), c, 1)
		joined(t, c, 2)
		cancel(errSource)
		require.ErrorIs(t, receive(t, first).err, errSource, "the cause of its end")

		require.NoError(t, load.ctx.Err())
		require.Equal(t, "acme", load.ctx.Value(tenant{}))
		callers, _ := ctx.Deadline()
		loads, ok := load.ctx.Deadline()
		require.True(t, ok)
		require.True(t, loads.After(callers), "the load has the caller's deadline")
		load.returns("loaded", nil)
		gets(t, "loaded", second)
		gets(t, "loaded", asking(t.Context(), c, 1))
	})
}

func TestUp_WithoutCallersIsCancelledAndReleasesTheLease(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", Up: s.up, LeaseTTL: longLease}
		c, other := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		ctx, cancel := context.WithCancel(t.Context())
		first := asking(ctx, c, 1)
		load := s.next(t)
		second := asking(ctx, c, 1)
		joined(t, c, 2)
		cancel()
		require.ErrorIs(t, receive(t, first).err, context.Canceled)
		require.ErrorIs(t, receive(t, second).err, context.Canceled)
		receive(t, load.ctx.Done())
		eventually(t, "the lease should be free", func() bool { return rdb.Exists(t.Context(), c.Key(1)).Val() == 0 })

		// Nobody joins what is cancelled, and what it still finds is not stored.
		next, elsewhere := asking(t.Context(), c, 1), asking(t.Context(), other, 1)
		s.next(t).returns("new", nil)
		gets(t, "new", next)
		gets(t, "new", elsewhere)
		load.returns("old", nil)
		gets(t, "new", asking(t.Context(), c, 1))
		require.Empty(t, s.calls)
	})
}

// inBubble runs f with two caches of one template, in which time passes at once
// when nothing else happens.
func inBubble(t *testing.T, spec Spec[int, string], f func(t *testing.T, rdb *redis.Client, s *source, a, b *Cache[int, string])) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource(t)
		if spec.Up = s.up; spec.Key == "" {
			spec.Key = "k:{id}"
		}
		a, b := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		f(t, rdb, s, a, b)
		require.NoError(t, a.Close(t.Context())) // waits for what was left behind
		require.NoError(t, b.Close(t.Context()))
		require.Empty(t, s.calls)
	})
}

func TestUp_GoesOnAfterACallersDeadline(t *testing.T) {
	t.Parallel()
	inBubble(t, Spec[int, string]{}, func(t *testing.T, rdb *redis.Client, s *source, a, b *Cache[int, string]) {
		short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		first := asking(short, a, 1)
		load := s.next(t)
		late, second, elsewhere := asking(short, a, 1), asking(t.Context(), a, 1), asking(short, b, 1)
		for _, ch := range []<-chan answer{first, late, elsewhere} {
			require.ErrorIs(t, receive(t, ch).err, context.DeadlineExceeded)
		}
		require.NoError(t, load.ctx.Err())
		load.returns("loaded", nil)
		gets(t, "loaded", second)
		gets(t, "loaded", asking(t.Context(), b, 1))
	})
}

func TestUpTimeout_EndsALoadEvenIfUpIgnoresItsCtx(t *testing.T) {
	t.Parallel()
	for _, heeds := range []bool{true, false} {
		t.Run(fmt.Sprint("heeds ", heeds), func(t *testing.T) {
			t.Parallel()
			spec := Spec[int, string]{UpTimeout: 10 * time.Second}
			inBubble(t, spec, func(t *testing.T, rdb *redis.Client, s *source, a, b *Cache[int, string]) {
				first := asking(t.Context(), a, 1)
				load := s.next(t)
				second := asking(t.Context(), a, 1)
				if heeds {
					load.does(func() (string, error) { <-load.ctx.Done(); return "", load.ctx.Err() })
				}
				for _, ch := range []<-chan answer{first, second} {
					err := receive(t, ch).err
					require.ErrorIs(t, err, context.DeadlineExceeded)
					require.ErrorContains(t, err, "10s", "it says whose deadline it was")
				}
				require.Error(t, load.ctx.Err())
				require.Zero(t, rdb.Exists(t.Context(), a.Key(1)).Val())
				elsewhere := asking(t.Context(), b, 1)
				s.next(t).returns("new", nil)
				gets(t, "new", elsewhere)
				if !heeds {
					load.returns("old", nil) // left behind until now
				}
				synctest.Wait()
				gets(t, "new", asking(t.Context(), a, 1))
				require.Equal(t, int64(1), a.Stats().Loads)
			})
		})
	}
}

func TestMaxLoads_IsNeverExceeded(t *testing.T) {
	t.Parallel()
	const most, callers = 3, 10
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprint("Redis away ", away), func(t *testing.T) {
			t.Parallel()
			inBubble(t, Spec[int, string]{MaxLoads: most, UpTimeout: time.Hour}, func(t *testing.T, rdb *redis.Client, s *source, a, _ *Cache[int, string]) {
				leases := int64(most)
				if away {
					faults := new(redistest.Faults)
					faults.Add(redistest.Fault{Match: redistest.Named("get"), Times: callers})
					rdb.AddHook(faults)
					leases = 0
				}
				answers := make([]<-chan answer, callers)
				for id := range answers {
					answers[id] = asking(t.Context(), a, id)
				}
				for left := callers; left > 0; left-- {
					synctest.Wait()
					require.Len(t, s.calls, min(left, most))
					if left == callers {
						require.Equal(t, leases, rdb.DBSize(t.Context()).Val(), "who waits for its turn holds no lease")
					}
					load := s.next(t)
					load.returns("loaded", nil)
					gets(t, "loaded", answers[load.id])
				}
			})
		})
	}
}

// Else an Up that hangs would soon run without bound.
func TestMaxLoads_CountsAbandonedLoads(t *testing.T) {
	t.Parallel()
	inBubble(t, Spec[int, string]{MaxLoads: 1, UpTimeout: time.Second}, func(t *testing.T, _ *redis.Client, s *source, a, _ *Cache[int, string]) {
		require.ErrorIs(t, receive(t, asking(t.Context(), a, 1)).err, context.DeadlineExceeded)
		load := s.next(t)
		require.ErrorIs(t, receive(t, asking(t.Context(), a, 2)).err, context.DeadlineExceeded)
		require.Empty(t, s.calls)
		load.returns("old", nil)
		second := asking(t.Context(), a, 2)
		s.next(t).returns("loaded", nil)
		gets(t, "loaded", second)
	})
}

func TestUp_MayCallAnotherCache(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource(t)
		inner := newCache(t, rdb, Spec[int, string]{Up: s.up, LeaseTTL: longLease})
		outer := newCache(t, rdb, Spec[int, string]{Up: inner.Get, LeaseTTL: longLease})
		first := asking(t.Context(), outer, 1)
		s.next(t).returns("loaded", nil)
		gets(t, "loaded", first)
		gets(t, "loaded", asking(t.Context(), inner, 1))

		second := asking(t.Context(), outer, 2)
		s.next(t).returns("", ErrNotFound)
		err := receive(t, second).err
		require.ErrorIs(t, err, ErrNotFound)
		require.ErrorContains(t, err, outer.Key(2))
		require.ErrorContains(t, err, inner.Key(2))
		require.Zero(t, outer.Stats().LoadFailures)
	})
}

func TestUp_ReentrantLoadIsAnError(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		var c *Cache[int, string]
		c = newCache(t, rdb, Spec[int, string]{Up: func(ctx context.Context, id int) (string, error) { return c.Get(ctx, id/2) }})
		_, err := c.Get(t.Context(), 4) // 2, 1, 0, and 0 once more
		require.ErrorIs(t, err, loader.ErrReentrant)
		require.Zero(t, rdb.Exists(t.Context(), c.Key(4), c.Key(2), c.Key(1), c.Key(0)).Val())
	})
}

func TestCache_TwoOfOneTemplateShareLoads(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", Up: s.up, LeaseTTL: longLease}
		a, b := newCache(t, rdb, spec), newCache(t, rdb, spec) // of one client, too
		first := asking(t.Context(), a, 1)
		load := s.next(t)
		second := asking(t.Context(), b, 1)
		waiting(t, b, 1)
		load.returns("loaded", nil)
		gets(t, "loaded", first)
		gets(t, "loaded", second)

		// What one of them deletes or sets is so for the other.
		require.NoError(t, a.Delete(t.Context(), 1))
		second = asking(t.Context(), b, 1)
		load = s.next(t)
		require.NoError(t, a.Set(t.Context(), 1, "set"))
		load.returns("old", nil)
		gets(t, "old", second)
		gets(t, "set", asking(t.Context(), b, 1))

		// Nor does the end of one keep the other from waiting.
		require.NoError(t, a.Close(t.Context()))
		require.NoError(t, b.Delete(t.Context(), 1))
		gone := asking(t.Context(), b, 1)
		s.next(t).returns("new", nil)
		gets(t, "new", gone)
	})
}

// A load with the only place must not wait for one that waits for its place.
func TestMaxLoads_NestedLoadIsNotCounted(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	var c *Cache[int, int]
	c = newCache(t, rdb, Spec[int, int]{MaxLoads: 1, Up: func(ctx context.Context, n int) (int, error) {
		if n == 0 {
			return 0, nil
		}
		below, err := c.Get(ctx, n-1)
		return below + 1, err
	}})
	v, err := c.Get(t.Context(), 5)
	require.NoError(t, err)
	require.Equal(t, 5, v)
}
