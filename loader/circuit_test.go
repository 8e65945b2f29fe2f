package loader

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/breaker"
	"github.com/cachex-go/cachex/internal/redistest"
)

// once makes a client try everything once.
func once(o *redis.Options) {
	o.MaxRetries, o.DialerRetries = -1, 1
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// scripted returns a client of a server that answers every GET with reply, and
// not at all if that is empty.
func scripted(t *testing.T, reply string, configure func(*redis.Options)) *redis.Client {
	o := &redis.Options{Dialer: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() { // ends when the client closes its connection
			defer func() { _ = server.Close() }()
			in := bufio.NewReader(server)
			for {
				name, err := command(in)
				if err != nil {
					return
				}
				switch answer := "-ERR unknown command\r\n"; {
				case name != "get":
					_, _ = io.WriteString(server, answer)
				case reply != "":
					_, _ = io.WriteString(server, reply+"\r\n")
				}
			}
		}()
		return client, nil
	}}
	once(o)
	if configure != nil {
		configure(o)
	}
	rdb := redis.NewClient(o)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// command reads a command and returns its name.
func command(in *bufio.Reader) (name string, err error) {
	var n int
	if _, err := fmt.Fscanf(in, "*%d\r\n", &n); err != nil {
		return "", err
	}
	for i := range n {
		var size int
		if _, err := fmt.Fscanf(in, "$%d\r\n", &size); err != nil {
			return "", err
		}
		arg := make([]byte, size+len("\r\n"))
		if _, err := io.ReadFull(in, arg); err != nil {
			return "", err
		}
		if i == 0 {
			name = strings.ToLower(string(arg[:size]))
		}
	}
	return name, nil
}

func TestWhatRedisRepliesSaysThatItIsThere(t *testing.T) {
	t.Parallel()
	for reply, want := range map[string]evidence{
		"$1\r\nv": answered,
		"$-1":     answered,
		"-WRONGTYPE Operation against a key holding the wrong kind of value":  answered,
		"-NOSCRIPT No matching script. Please use EVAL.":                      answered,
		"-OOM command not allowed when used memory > 'maxmemory'.":            answered,
		"-READONLY You can't write against a read only replica.":              answered,
		"-NOAUTH Authentication required.":                                    answered,
		"-NOPERM this user has no permissions to run the 'get' command":       answered,
		"-BUSY Redis is busy running a script. You can only call SCRIPT KILL": answered,
		"-TRYAGAIN Multiple keys request during rehashing of slot":            answered,
		"-ERR unknown command":                            answered,
		"-LOADING Redis is loading the dataset in memory": failed,
		"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.":      failed,
		"-CLUSTERDOWN The cluster is down":                                                       failed,
		"-CLUSTERDOWN Hash slot not served":                                                      failed,
		"-ERR max number of clients reached":                                                     failed,
		"-ERR the LOADING of something else, or what CLUSTERDOWN means, is none of its business": answered,
		"?what is this": failed, // whoever answers is no Redis
	} {
		t.Run(reply, func(t *testing.T) {
			t.Parallel()
			err := scripted(t, reply, nil).Get(t.Context(), "k").Err()
			require.Equal(t, want, weigh(t.Context(), time.Time{}, err), "%v", err)
		})
	}
}

func TestWhatAWrappedErrorSaysIsWhatItWraps(t *testing.T) {
	t.Parallel()
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for _, test := range []struct {
		err  error
		want evidence
	}{
		{redis.Nil, answered}, {redis.ErrNoScript, answered}, {redis.ErrClosed, moot}, {redis.ErrPoolTimeout, failed},
		{dial, refused}, {io.EOF, failed}, {errSilent, failed}, {os.ErrDeadlineExceeded, failed},
		{&net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}, failed},
		{context.DeadlineExceeded, failed}, // not of our ctx
		{context.Canceled, moot},
		{fmt.Errorf("%w: %w", errAway, dial), moot},
	} {
		require.Equal(t, test.want, weigh(t.Context(), time.Time{}, test.err), "%v", test.err)
		require.Equal(t, test.want, weigh(t.Context(), time.Time{}, fmt.Errorf("hook: %w", test.err)), "%v", test.err)
		require.Equal(t, test.want, weigh(t.Context(), time.Time{}, errors.Join(errBroken, test.err)), "%v", test.err)
	}
}

func TestAPortWhereNobodyListensIsSure(t *testing.T) {
	t.Parallel()
	addr := closedPort(t)
	for name, rdb := range map[string]redis.UniversalClient{
		"client":   redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1}),
		"retries":  redis.NewClient(&redis.Options{Addr: addr, DialerRetries: 2, DialerRetryTimeout: 1}),
		"cluster":  redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{addr}, MaxRedirects: 1, DialerRetries: 1}),
		"sentinel": redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: []string{addr}, MaxRetries: -1, DialerRetries: 1}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Cleanup(func() { _ = rdb.Close() })
			err := rdb.Get(t.Context(), "k").Err()
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			require.Equal(t, refused, weigh(t.Context(), time.Now(), err), "%v", err)
		})
	}
}

// A Ring that has found out by itself that its servers are away dials no more.
func TestARingWhoseServersAreAllAwayHasFailed(t *testing.T) {
	t.Parallel()
	rdb := redis.NewRing(&redis.RingOptions{
		Addrs:      map[string]string{"a": closedPort(t)},
		MaxRetries: -1, DialerRetries: 1, HeartbeatFrequency: time.Millisecond,
	})
	t.Cleanup(func() { _ = rdb.Close() })
	require.Eventually(t, func() bool { // until then it is refused
		return weigh(t.Context(), time.Time{}, rdb.Get(t.Context(), "k").Err()) == failed
	}, patience, time.Millisecond)
}

// The pool has a breaker of its own: after as many failures as it has room for
// connections it dials in the background only, and gives out the last error.
func TestAPoolThatDialsNoMoreIsSure(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		var dials atomic.Int64
		o := &redis.Options{PoolSize: 2, Dialer: func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		}}
		once(o)
		rdb := redis.NewClient(o)
		defer func() {
			_ = rdb.Close()
			time.Sleep(time.Second) // it notices when it would dial again
		}()
		for range o.PoolSize {
			require.Error(t, rdb.Get(t.Context(), t.key).Err())
		}
		synctest.Wait()
		before := dials.Load()
		for range 5 {
			require.Equal(t, refused, weigh(t.Context(), time.Time{}, rdb.Get(t.Context(), t.key).Err()))
		}
		require.Equal(t, before, dials.Load(), "the pool still dials, so this test shows nothing")
	})
}

func TestARedisThatEndsWhileItIsAskedHasFailed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	o := &redis.Options{Addr: proxy.Addr(), PoolSize: 1}
	once(o)
	rdb := redis.NewClient(o)
	t.Cleanup(func() { _ = rdb.Close() })
	require.Equal(t, answered, weigh(t.Context(), time.Time{}, rdb.Get(t.Context(), "k").Err()))
	proxy.LoseReplies(1)
	err := rdb.Get(t.Context(), "k").Err()
	require.Error(t, err)
	require.Equal(t, failed, weigh(t.Context(), time.Time{}, err), "%v", err)

	direct := server.Client(once)
	require.Equal(t, answered, weigh(t.Context(), time.Time{}, direct.Get(t.Context(), "k").Err()))
	server.Kill()
	require.Eventually(t, func() bool { // the pool may give out a connection that is broken first
		return weigh(t.Context(), time.Time{}, direct.Get(t.Context(), "k").Err()) == refused
	}, patience, time.Millisecond)
	server.Restart()
	require.Eventually(t, func() bool { // nor does it dial at once
		return weigh(t.Context(), time.Time{}, direct.Get(t.Context(), "k").Err()) == answered
	}, patience, time.Millisecond)
}

func TestARedisThatIsFrozenHasFailed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(func(o *redis.Options) {
		once(o)
		o.ReadTimeout = 20 * time.Millisecond
	})
	require.Eventually(t, func() bool { // a busy machine may need more than that
		return weigh(t.Context(), time.Time{}, rdb.Get(t.Context(), "k").Err()) == answered
	}, patience, time.Millisecond)
	server.Stop()
	err := rdb.Get(t.Context(), "k").Err()
	server.Cont()
	e, ok := errors.AsType[net.Error](err)
	require.True(t, ok && e.Timeout(), "%v", err)
	require.Equal(t, failed, weigh(t.Context(), time.Time{}, err))
}

func TestACallerWhoLeavesSaysSomethingOnlyIfItHadWaited(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"cancelled": context.WithCancel,
		"deadline":  func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, 1) },
		"with a cause of its own": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, 1, errBroken)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rdb := scripted(t, "$-1", nil)
				defer func() { _ = rdb.Close() }()
				ctx, cancel := end(t.Context())
				time.Sleep(time.Nanosecond)
				cancel()
				err := rdb.Get(ctx, "k").Err()
				require.Error(t, err)
				began := time.Now()
				for _, err := range []error{err, context.Cause(ctx)} { // of the client, and of who waits for it
					require.Equal(t, moot, weigh(ctx, time.Time{}, err), "%v", err)
					require.Equal(t, moot, weigh(ctx, time.Now(), err), "%v", err)
				}
				time.Sleep(lull - time.Nanosecond)
				require.Equal(t, moot, weigh(ctx, began, err))
				time.Sleep(time.Nanosecond)
				require.Equal(t, failed, weigh(ctx, began, err))
				require.Equal(t, failed, weigh(ctx, began, context.Cause(ctx)))
				require.Equal(t, answered, weigh(ctx, began, nil), "the answer came all the same")
				require.Equal(t, failed, weigh(ctx, time.Now(), errSilent), "so did the end of Redis' time")
			})
		})
	}
}

// With timeouts of the client that are longer than all deadlines, these are all
// that anybody sees.
func TestCallersWithShortDeadlinesFindOutThatRedisIsSilent(t *testing.T) {
	t.Parallel()
	for name, heeds := range map[string]bool{"the client heeds them": true, "the client does not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rdb := scripted(t, "", func(o *redis.Options) {
					o.MaxRetries, o.ReadTimeout, o.ContextTimeoutEnabled = 3, 3*time.Second, heeds
				})
				defer func() { _ = rdb.Close() }()
				cs := circuitsFor(rdb)
				defer cs.release()
				c := cs.of("k")
				for range 3 {
					require.NoError(t, c.allow())
					began := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
					err := rdb.Get(ctx, "k").Err()
					require.ErrorIs(t, err, context.DeadlineExceeded)
					c.done(ctx, began, err)
					cancel()
				}
				require.ErrorIs(t, c.allow(), errAway)
			})
		})
	}
}

// Not in a bubble: those who wait for a connection borrow timers that go-redis
// shares among all clients, and one of another bubble would never fire here.
func TestAPoolThatIsExhaustedHasFailed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rdb := s.Client(nil)
	o := *rdb.Options()
	o.PoolSize, o.PoolTimeout, o.PushNotificationProcessor = 1, 10*time.Millisecond, nil
	once(&o)
	one := redis.NewClient(&o)
	defer func() { _ = one.Close() }()
	conn := one.Conn() // has the only connection
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.Ping(t.Context()).Err())
	err := one.Get(t.Context(), "k").Err()
	require.ErrorIs(t, err, redis.ErrPoolTimeout)
	require.Equal(t, failed, weigh(t.Context(), time.Time{}, err))
}

func TestAClientThatIsClosedSaysNothing(t *testing.T) {
	t.Parallel()
	for name, rdb := range map[string]redis.UniversalClient{
		"client":  redis.NewClient(&redis.Options{}),
		"cluster": redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{closedPort(t)}}),
		"ring":    redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": closedPort(t)}}),
	} {
		require.NoError(t, rdb.Close())
		err := rdb.Get(t.Context(), "k").Err()
		require.Equal(t, moot, weigh(t.Context(), time.Now(), err), "%s: %v", name, err)
	}
}

func TestAReaderWhoIsNotLetThroughIsToldWhy(t *testing.T) {
	t.Parallel()
	var c circuit
	require.NoError(t, c.allow())
	c.done(t.Context(), time.Time{}, io.EOF)
	c.done(t.Context(), time.Time{}, io.EOF)
	require.NoError(t, c.allow())
	c.done(t.Context(), time.Time{}, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED})
	err := c.allow()
	require.EqualError(t, err, "Redis is not asked, since it did not answer lately: dial tcp: connection refused")
	require.ErrorIs(t, err, errAway)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	e, ok := errors.AsType[*net.OpError](err)
	require.True(t, ok)
	require.Equal(t, "dial", e.Op)

	c.done(t.Context(), time.Time{}, err) // a call that was not made
	c.done(t.Context(), time.Time{}, redis.ErrClosed)
	require.Equal(t, err, c.allow())
	c.done(t.Context(), time.Time{}, redis.Nil)
	require.NoError(t, c.allow())
}

// inline is a spawn that waits.
func inline(fn func()) bool { fn(); return true }

// opened returns a circuit that is open, and lets a probe be due.
func opened(t *testing.T) *circuit {
	c := new(circuit)
	c.done(t.Context(), time.Time{}, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED})
	require.Error(t, c.allow())
	time.Sleep(200 * time.Millisecond)
	return c
}

func TestOneReaderProbesInTheBackground(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		spawn := func(fn func()) bool { wg.Go(fn); return true }
		c, back, sent := opened(t), make(chan error), 0
		send := func(ctx context.Context) error {
			sent++
			deadline, ok := ctx.Deadline()
			require.True(t, ok)
			require.Equal(t, probeTimeout, time.Until(deadline))
			return <-back
		}
		for range 3 {
			c.probe(spawn, send)
		}
		synctest.Wait()
		require.Equal(t, 1, sent)
		c.done(t.Context(), time.Time{}, io.EOF) // of a write
		time.Sleep(time.Second)
		c.probe(spawn, send)
		require.Equal(t, 1, sent, "one is still out")
		require.Error(t, c.allow())

		back <- io.ErrUnexpectedEOF
		wg.Wait()
		require.ErrorIs(t, c.allow(), io.ErrUnexpectedEOF, "the reason is the last one")
		time.Sleep(200 * time.Millisecond)
		c.probe(spawn, send)
		back <- redis.Nil
		wg.Wait()
		require.NoError(t, c.allow())
		c.probe(spawn, send)
		require.Equal(t, 2, sent)
		require.EqualValues(t, 1, c.b.Opened())
	})
}

func TestAProbeThatDoesNotReachRedisLeavesItOpen(t *testing.T) {
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
				func() {
					defer func() { require.Equal(t, name == "panic", recover() != nil) }()
					c.probe(inline, send)
				}()
				require.Equal(t, breaker.Open, c.b.State(), "the next probe is due soon, and not when this one counts as lost")
				time.Sleep(200 * time.Millisecond)
				c.probe(inline, func(context.Context) error { return nil })
				require.NoError(t, c.allow())
			})
		})
	}
}

func TestWhereNoGoroutineMayStartTheReaderProbesItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := opened(t)
		c.probe(func(func()) bool { return false }, func(context.Context) error { return nil })
		require.NoError(t, c.allow())
	})
}

func TestReadsDoNotWaitForARedisThatIsAwayAndReturnToIt(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		require.NoError(t, t.rdb.Set(t.Context(), t.key, "v", 0).Err())
		var gone atomic.Bool
		gone.Store(true)
		o := *t.rdb.Options()
		dial := o.Dialer
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if gone.Load() {
				return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
			}
			return dial(ctx, network, addr)
		}
		rdb := redis.NewClient(&o)
		defer func() { _ = rdb.Close() }()
		cs := circuitsFor(rdb)
		defer cs.release()
		var wg sync.WaitGroup
		defer wg.Wait()
		read := func() (string, error) {
			c := cs.of(t.key)
			if err := c.allow(); err != nil {
				c.probe(func(fn func()) bool { wg.Go(fn); return true }, func(ctx context.Context) error {
					return rdb.Get(ctx, t.key).Err()
				})
				return "", err
			}
			began := time.Now()
			v, err := rdb.Get(t.Context(), t.key).Result()
			c.done(t.Context(), began, err)
			return v, err
		}
		begin := time.Now()
		_, err := read()
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.Greater(t, time.Since(begin), time.Second, "it is the client that has tried for so long")
		for range 1000 {
			begin := time.Now()
			_, err := read()
			require.ErrorIs(t, err, errAway)
			require.Zero(t, time.Since(begin))
			time.Sleep(10 * time.Millisecond)
		}
		gone.Store(false)
		back := time.Now()
		for {
			v, err := read()
			if err == nil {
				require.Equal(t, "v", v)
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		require.LessOrEqual(t, time.Since(back), 2*time.Second)
		require.EqualValues(t, 1, cs.opened())
	})
}

// A twin is a client whose type does not compare.
type twin struct {
	*redis.Client
	_ []int
}

// A crooked one is of a type that compares, and has something in it that does
// not.
type crooked struct {
	*redis.Client
	any
}

func TestLoadersOfOneClientShareItsCircuits(t *testing.T) {
	t.Parallel()
	rdb, other := redis.NewClient(&redis.Options{}), redis.NewClient(&redis.Options{})
	defer func() { _, _ = rdb.Close(), other.Close() }()
	a, b, c := circuitsFor(rdb), circuitsFor(rdb), circuitsFor(other)
	require.Same(t, a, b)
	require.NotSame(t, a, c)
	require.Same(t, a.of("x"), a.of("y"))
	a.of("x").done(t.Context(), time.Time{}, &net.OpError{Op: "dial"})
	require.Error(t, b.of("y").allow())
	require.NoError(t, c.of("y").allow())

	a.release()
	require.Same(t, b, circuitsFor(rdb))
	b.release()
	b.release()
	c.release()
	circuitSets.mu.Lock()
	require.NotContains(t, circuitSets.m, redis.UniversalClient(rdb))
	require.NotContains(t, circuitSets.m, redis.UniversalClient(other))
	circuitSets.mu.Unlock()
	d := circuitsFor(rdb)
	defer d.release()
	require.NotSame(t, a, d)

	for _, odd := range []redis.UniversalClient{twin{Client: rdb}, crooked{rdb, []int{}}} {
		a, b = circuitsFor(odd), circuitsFor(odd)
		require.NotSame(t, a, b)
		require.NotSame(t, d, a)
		a.release()
		b.release()
	}
}

func TestCircuitsOfAClusterStandForSomeSlotsEach(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{closedPort(t)}})
	defer func() { _ = rdb.Close() }()
	cs := circuitsFor(rdb)
	defer cs.release()
	require.Len(t, cs.all, clusterCircuits)
	hit := make(map[*circuit]int)
	for i := range 4096 {
		key := fmt.Sprint("key:", i)
		hit[cs.of(key)]++
		require.Same(t, &cs.all[slot(key)/256], cs.of(key))
		require.Same(t, cs.of(key), cs.of("{"+key+"}:more"))
	}
	require.Len(t, hit, clusterCircuits)

	cs.of("{a}").done(t.Context(), time.Time{}, &net.OpError{Op: "dial"})
	require.Error(t, cs.of("{a}b").allow())
	require.NoError(t, cs.of("{b}").allow(), "a master of other slots")
	require.EqualValues(t, 1, cs.opened())
}

func TestACircuitCostsAReadNoAllocation(t *testing.T) {
	cs := newCircuits(redis.NewClusterClient(&redis.ClusterOptions{}))
	defer func() { _ = cs.rdb.Close() }()
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		c := cs.of("users:{42}")
		if c.allow() == nil {
			c.done(ctx, time.Time{}, nil)
			c.done(ctx, time.Time{}, redis.Nil)
		}
	}))
	cs.of("users:{42}").done(ctx, time.Time{}, &net.OpError{Op: "dial"})
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		c := cs.of("users:{42}")
		if c.allow() != nil && c.b.Probe() {
			c.b.Failure(false)
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
				c := cs.of("users:123456:profile")
				_ = c.allow()
				c.done(ctx, time.Now(), nil)
			}
		})
		_ = rdb.Close()
	}
}
