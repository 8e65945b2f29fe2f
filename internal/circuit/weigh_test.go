package circuit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/redistest"
)

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
		{dial, refused}, {io.EOF, failed}, {convoy.ErrSilent, failed}, {os.ErrDeadlineExceeded, failed},
		{&net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}, failed},
		{context.DeadlineExceeded, failed}, // not of our ctx
		{context.Canceled, moot},
		{fmt.Errorf("%w: %w", ErrAway, dial), moot},
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
	redistest.Bubble(t, func(t *testing.T, _ *redis.Client) {
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
			require.Error(t, rdb.Get(t.Context(), "k").Err())
		}
		synctest.Wait()
		before := dials.Load()
		for range 5 {
			require.Equal(t, refused, weigh(t.Context(), time.Time{}, rdb.Get(t.Context(), "k").Err()))
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
				require.Equal(t, failed, weigh(ctx, time.Now(), convoy.ErrSilent), "so did the end of Redis' time")
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
