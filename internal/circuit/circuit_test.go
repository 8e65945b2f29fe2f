package circuit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/breaker"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestAllow_ReturnsTheReason(t *testing.T) {
	t.Parallel()
	c := lone()
	require.NoError(t, c.Allow())
	c.Done(t.Context(), time.Time{}, io.EOF)
	c.Done(t.Context(), time.Time{}, io.EOF)
	require.NoError(t, c.Allow())
	c.Done(t.Context(), time.Time{}, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED})
	err := c.Allow()
	require.EqualError(t, err, "Redis was not asked, because it did not answer recently: dial tcp: connection refused")
	require.ErrorIs(t, err, ErrAway)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	e, ok := errors.AsType[*net.OpError](err)
	require.True(t, ok)
	require.Equal(t, "dial", e.Op)

	c.Done(t.Context(), time.Time{}, err) // a call that was not made
	c.Done(t.Context(), time.Time{}, redis.ErrClosed)
	require.Equal(t, err, c.Allow())
	c.Done(t.Context(), time.Time{}, redis.Nil)
	require.NoError(t, c.Allow())
}

// lone returns the route to a single server, without a client.
func lone() Route {
	return (&Circuits{server: func(string) string { return unknown }}).Of("k")
}

// opened returns a circuit that is open, with a probe due.
func opened(t *testing.T) Route {
	c := lone()
	c.Done(t.Context(), time.Time{}, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED})
	require.Error(t, c.Allow())
	time.Sleep(200 * time.Millisecond)
	return c
}

func TestProbe_RunsOnceInTheBackground(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		spawn := func(code guard.Code, fn func() error, done func(error)) {
			wg.Go(func() { guard.Run(code, fn, done) })
		}
		c, back, sent := opened(t), make(chan error), 0
		send := func(ctx context.Context) error {
			sent++
			deadline, ok := ctx.Deadline()
			require.True(t, ok)
			require.Equal(t, probeTimeout, time.Until(deadline))
			return <-back
		}
		for range 3 {
			c.Probe(spawn, send)
		}
		synctest.Wait()
		require.Equal(t, 1, sent)
		c.Done(t.Context(), time.Time{}, io.EOF) // of a write
		time.Sleep(time.Second)
		c.Probe(spawn, send)
		require.Equal(t, 1, sent, "one is still out")
		require.Error(t, c.Allow())

		back <- io.ErrUnexpectedEOF
		wg.Wait()
		require.ErrorIs(t, c.Allow(), io.ErrUnexpectedEOF, "the reason is the last one")
		time.Sleep(mostWait)
		c.Probe(spawn, send)
		back <- redis.Nil
		wg.Wait()
		require.NoError(t, c.Allow())
		c.Probe(spawn, send)
		require.Equal(t, 2, sent)
		require.EqualValues(t, 1, c.cs.opened())
	})
}

func TestProbe_FailureLeavesItOpen(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(context.Context) error{
		"refused": func(context.Context) error { return &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED} },
		"silent":  func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"loading": func(context.Context) error { return errors.New("LOADING, by a hook that made it no redis.Error") },
		"closed":  func(context.Context) error { return redis.ErrClosed },
		"left":    func(context.Context) error { return context.Canceled },
		"panic":   func(context.Context) error { panic("a hook") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := opened(t)
				c.Probe(guard.Run, send)
				require.Equal(t, breaker.Open, c.cs.State(), "the next probe is due soon, and not when this one counts as lost")
				time.Sleep(mostWait)
				c.Probe(guard.Run, func(context.Context) error { return nil })
				require.NoError(t, c.Allow())
			})
		})
	}
}

func TestCircuit_SkipsAnUnavailableRedisAndReturnsToIt(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, back *redis.Client) {
		require.NoError(t, back.Set(t.Context(), "k", "v", 0).Err())
		var gone atomic.Bool
		gone.Store(true)
		o := *back.Options()
		dial := o.Dialer
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if gone.Load() {
				return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
			}
			return dial(ctx, network, addr)
		}
		rdb := redis.NewClient(&o)
		defer func() { _ = rdb.Close() }()
		cs := For(rdb)
		var wg sync.WaitGroup
		defer wg.Wait()
		read := func() (string, error) {
			c := cs.Of("k")
			if err := c.Allow(); err != nil {
				c.Probe(func(code guard.Code, fn func() error, done func(error)) {
					wg.Go(func() { guard.Run(code, fn, done) })
				}, func(ctx context.Context) error {
					return rdb.Get(ctx, "k").Err()
				})
				return "", err
			}
			began := time.Now()
			v, err := rdb.Get(t.Context(), "k").Result()
			c.Done(t.Context(), began, err)
			return v, err
		}
		const step = 10 * time.Millisecond // between two reads
		begin := time.Now()
		_, err := read()
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.Greater(t, time.Since(begin), time.Second, "it is the client that has tried for so long")
		for range 1000 {
			begin := time.Now()
			_, err := read()
			require.ErrorIs(t, err, ErrAway)
			require.Zero(t, time.Since(begin))
			time.Sleep(step)
		}
		gone.Store(false)
		since := time.Now()
		for {
			v, err := read()
			if err == nil {
				require.Equal(t, "v", v)
				break
			}
			time.Sleep(step)
		}
		// A second in which go-redis fails all calls, one interval, and the step in which a
		// probe is found due.
		require.LessOrEqual(t, time.Since(since), time.Second+mostWait+step)
		require.EqualValues(t, 1, cs.opened())
	})
}

// twin is a client of a type that is not comparable.
type twin struct {
	*redis.Client
	_ []int
}

// crooked is of a comparable type, but holds a value that is not.
type crooked struct {
	*redis.Client
	any
}

func TestFor_SharesTheCircuitsOfAClient(t *testing.T) {
	t.Parallel()
	rdb, other := redis.NewClient(&redis.Options{}), redis.NewClient(&redis.Options{})
	defer func() { _, _ = rdb.Close(), other.Close() }()
	a, b, c := For(rdb), For(rdb), For(other)
	require.Same(t, a, b)
	require.NotSame(t, a, c)
	a.Of("x").Done(t.Context(), time.Time{}, &net.OpError{Op: "dial"})
	require.Error(t, b.Of("y").Allow())
	require.NoError(t, c.Of("y").Allow())

	for _, odd := range []redis.UniversalClient{twin{Client: rdb}, crooked{rdb, []int{}}} {
		x, y := For(odd), For(odd)
		require.NotSame(t, x, y)
		require.NotSame(t, a, x)
	}
	runtime.KeepAlive(c)
}

func TestFor_ReleasesTheClientWithItsLastUser(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{})
	defer func() { _ = rdb.Close() }()
	cs := For(rdb)
	cs.Of("x").Done(t.Context(), time.Time{}, &net.OpError{Op: "dial"})
	runtime.GC()
	still := weak.Make(cs)
	require.Error(t, For(rdb).Of("x").Allow(), "somebody has it still")
	runtime.KeepAlive(cs)
	require.Eventually(t, func() bool { runtime.GC(); return still.Value() == nil }, patience, time.Millisecond)
	require.NoError(t, For(rdb).Of("x").Allow(), "who comes now begins anew")
}

// hidden is a client that does not reveal its masters.
type hidden struct{ redis.UniversalClient }

func TestOf_GroupsSlotsIfTheClientHidesItsMasters(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{closedPort(t)}})
	defer func() { _ = rdb.Close() }()
	cs := For(hidden{rdb})
	names := make(map[string]bool)
	for i := range 4096 {
		key := fmt.Sprint("key:", i)
		name := cs.server(key)
		names[name] = true
		require.Equal(t, ranges[slot(key)/256], name)
		require.Equal(t, name, cs.server("{"+key+"}:more"))
	}
	require.Len(t, names, ofCluster)
	require.Contains(t, names, "slots 16128 to 16383")

	cs.Of("{a}").Done(t.Context(), time.Time{}, &net.OpError{Op: "dial"})
	require.Error(t, cs.Of("{a}b").Allow())
	require.NoError(t, cs.Of("{b}").Allow(), "a master of other slots")
	require.EqualValues(t, 1, cs.opened())
}

func TestAllow_AllocatesNothing(t *testing.T) {
	cs := newCircuits(hidden{redis.NewClusterClient(&redis.ClusterOptions{})})
	defer func() { _ = cs.rdb.Close() }()
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		c := cs.Of("users:{42}")
		if c.Allow() == nil {
			c.Done(ctx, time.Time{}, nil)
			c.Done(ctx, time.Time{}, redis.Nil)
		}
	}))
	cs.Of("users:{42}").Done(ctx, time.Time{}, &net.OpError{Op: "dial"})
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		c := cs.Of("users:{42}")
		if c.Allow() != nil && c.circuit().b.Probe() {
			c.circuit().b.Failure(false)
		}
	}))
}

func BenchmarkCircuit(b *testing.B) {
	for name, rdb := range map[string]redis.UniversalClient{
		"one": redis.NewClient(&redis.Options{}), "cluster": redis.NewClusterClient(&redis.ClusterOptions{}),
	} {
		cs, ctx := newCircuits(rdb), b.Context()
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				c := cs.Of("users:123456:profile")
				_ = c.Allow()
				c.Done(ctx, time.Now(), nil)
			}
		})
		_ = rdb.Close()
	}
}

// If the client's timeouts exceed all deadlines, callers see no other error.
func TestDone_ShortDeadlinesRevealASilentRedis(t *testing.T) {
	t.Parallel()
	for name, heeds := range map[string]bool{"the client heeds them": true, "the client does not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rdb := scripted(t, "", func(o *redis.Options) {
					o.MaxRetries, o.ReadTimeout, o.ContextTimeoutEnabled = 3, 3*time.Second, heeds
				})
				defer func() { _ = rdb.Close() }()
				cs := For(rdb)
				c := cs.Of("k")
				for range 3 {
					require.NoError(t, c.Allow())
					began := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
					err := rdb.Get(ctx, "k").Err()
					require.ErrorIs(t, err, context.DeadlineExceeded)
					c.Done(ctx, began, err)
					cancel()
				}
				require.ErrorIs(t, c.Allow(), ErrAway)
			})
		})
	}
}

func TestProbe_RunsEverySecondOrTwoInALongOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := &redis.Options{}
		once(o) // without a DNS lookup, which bubbles share
		rdb := redis.NewClient(o)
		defer func() { _ = rdb.Close() }()
		c := For(rdb).Of("k")
		c.Done(t.Context(), time.Time{}, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED})
		began, probes := time.Now(), 0
		read := func(answer error) (left bool) {
			if c.Allow() == nil {
				return true
			}
			c.Probe(guard.Run, func(context.Context) error { probes++; return answer })
			time.Sleep(10 * time.Millisecond)
			return false
		}
		for time.Since(began) < time.Minute {
			require.False(t, read(io.EOF))
		}
		probes = 0
		for time.Since(began) < 2*time.Minute {
			require.False(t, read(io.EOF))
		}
		require.LessOrEqual(t, probes, 60)
		require.GreaterOrEqual(t, probes, 30)

		began = time.Now()
		for !read(nil) {
		}
		require.LessOrEqual(t, time.Since(began), mostWait+20*time.Millisecond, "reads return to it")
	})
}
