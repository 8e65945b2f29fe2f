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

func TestClassify_RepliesMeanAvailable(t *testing.T) {
	t.Parallel()
	for reply, want := range map[string]evidence{
		"$1\r\nv": success,
		"$-1":     success,
		"-WRONGTYPE Operation against a key holding the wrong kind of value":  success,
		"-NOSCRIPT No matching script. Please use EVAL.":                      success,
		"-OOM command not allowed when used memory > 'maxmemory'.":            success,
		"-READONLY You can't write against a read only replica.":              success,
		"-NOAUTH Authentication required.":                                    success,
		"-NOPERM this user has no permissions to run the 'get' command":       success,
		"-BUSY Redis is busy running a script. You can only call SCRIPT KILL": success,
		"-TRYAGAIN Multiple keys request during rehashing of slot":            success,
		"-ERR unknown command":                            success,
		"-LOADING Redis is loading the dataset in memory": failure,
		"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.":      failure,
		"-CLUSTERDOWN The cluster is down":                                                       failure,
		"-CLUSTERDOWN Hash slot not served":                                                      failure,
		"-ERR max number of clients reached":                                                     failure,
		"-ERR the LOADING of something else, or what CLUSTERDOWN means, is none of its business": success,
		"?what is this": failure, // the peer is not a Redis
	} {
		t.Run(reply, func(t *testing.T) {
			t.Parallel()
			err := scripted(t, reply, nil).Get(t.Context(), "k").Err()
			require.Equal(t, want, classify(t.Context(), time.Time{}, err), "%v", err)
		})
	}
}

func TestClassify_UnwrapsErrors(t *testing.T) {
	t.Parallel()
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for _, test := range []struct {
		err  error
		want evidence
	}{
		{redis.Nil, success}, {redis.ErrNoScript, success}, {redis.ErrClosed, neutral}, {redis.ErrPoolTimeout, failure},
		{dial, definite}, {io.EOF, failure}, {convoy.ErrSilent, failure}, {os.ErrDeadlineExceeded, failure},
		{&net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}, failure},
		{context.DeadlineExceeded, failure}, // not of this ctx
		{context.Canceled, neutral},
		{fmt.Errorf("%w: %w", ErrAway, dial), neutral},
	} {
		require.Equal(t, test.want, classify(t.Context(), time.Time{}, test.err), "%v", test.err)
		require.Equal(t, test.want, classify(t.Context(), time.Time{}, fmt.Errorf("hook: %w", test.err)), "%v", test.err)
		require.Equal(t, test.want, classify(t.Context(), time.Time{}, errors.Join(errBroken, test.err)), "%v", test.err)
	}
}

func TestClassify_RefusedConnectionIsSure(t *testing.T) {
	t.Parallel()
	addr := closedPort(t)
	for name, rdb := range map[string]redis.UniversalClient{
		"client":   redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1, DialTimeout: patience}),
		"retries":  redis.NewClient(&redis.Options{Addr: addr, DialerRetries: 2, DialerRetryTimeout: 1, DialTimeout: patience}),
		"cluster":  redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{addr}, MaxRedirects: 1, DialerRetries: 1, DialTimeout: patience}),
		"sentinel": redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "m", SentinelAddrs: []string{addr}, MaxRetries: -1, DialerRetries: 1, DialTimeout: patience}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Cleanup(func() { _ = rdb.Close() })
			err := rdb.Get(t.Context(), "k").Err()
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			require.Equal(t, definite, classify(t.Context(), time.Now(), err), "%v", err)
		})
	}
}

// A Ring that has found out that its servers are down no longer dials.
func TestClassify_RingWithoutServersHasFailed(t *testing.T) {
	t.Parallel()
	rdb := redis.NewRing(&redis.RingOptions{
		Addrs:      map[string]string{"a": closedPort(t)},
		MaxRetries: -1, DialerRetries: 1, HeartbeatFrequency: time.Millisecond,
	})
	t.Cleanup(func() { _ = rdb.Close() })
	require.Eventually(t, func() bool { // until then it is refused
		return classify(t.Context(), time.Time{}, rdb.Get(t.Context(), "k").Err()) == failure
	}, patience, time.Millisecond)
}

// The pool has its own breaker: after as many failures as its size it dials
// only in the background, and returns the last error.
func TestClassify_PoolThatStoppedDiallingIsSure(t *testing.T) {
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
			require.Equal(t, definite, classify(t.Context(), time.Time{}, rdb.Get(t.Context(), "k").Err()))
		}
		require.Equal(t, before, dials.Load(), "the pool still dials, so this test shows nothing")
	})
}

func TestClassify_RedisThatStopsDuringACallHasFailed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	o := &redis.Options{Addr: proxy.Addr(), PoolSize: 1, ReadTimeout: patience}
	once(o)
	rdb := redis.NewClient(o)
	t.Cleanup(func() { _ = rdb.Close() })
	require.Equal(t, success, classify(t.Context(), time.Time{}, rdb.Get(t.Context(), "k").Err()))
	proxy.LoseReplies(1)
	err := rdb.Get(t.Context(), "k").Err()
	require.Error(t, err)
	require.Equal(t, failure, classify(t.Context(), time.Time{}, err), "%v", err)

	direct := server.Client(once)
	require.Equal(t, success, classify(t.Context(), time.Time{}, direct.Get(t.Context(), "k").Err()))
	server.Kill()
	require.Eventually(t, func() bool { // the pool may return a broken connection first
		return classify(t.Context(), time.Time{}, direct.Get(t.Context(), "k").Err()) == definite
	}, patience, time.Millisecond)
	server.Restart()
	require.Eventually(t, func() bool { // nor does it dial at once
		return classify(t.Context(), time.Time{}, direct.Get(t.Context(), "k").Err()) == success
	}, patience, time.Millisecond)
}

func TestClassify_FrozenRedisHasFailed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(func(o *redis.Options) {
		once(o)
		o.ReadTimeout = 20 * time.Millisecond
	})
	require.Eventually(t, func() bool { // a busy machine may need longer
		return classify(t.Context(), time.Time{}, rdb.Get(t.Context(), "k").Err()) == success
	}, patience, time.Millisecond)
	server.Stop()
	err := rdb.Get(t.Context(), "k").Err()
	server.Cont()
	e, ok := errors.AsType[net.Error](err)
	require.True(t, ok && e.Timeout(), "%v", err)
	require.Equal(t, failure, classify(t.Context(), time.Time{}, err))
}

func TestClassify_LeavingCallerCountsOnlyAfterAWait(t *testing.T) {
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
				for _, err := range []error{err, context.Cause(ctx)} { // of the client, and of a waiter
					require.Equal(t, neutral, classify(ctx, time.Time{}, err), "%v", err)
					require.Equal(t, neutral, classify(ctx, time.Now(), err), "%v", err)
				}
				time.Sleep(minWait - time.Nanosecond)
				require.Equal(t, neutral, classify(ctx, began, err))
				time.Sleep(time.Nanosecond)
				require.Equal(t, failure, classify(ctx, began, err))
				require.Equal(t, failure, classify(ctx, began, context.Cause(ctx)))
				require.Equal(t, success, classify(ctx, began, nil), "the answer came all the same")
				require.Equal(t, failure, classify(ctx, time.Now(), convoy.ErrSilent), "so did the end of Redis' time")
			})
		})
	}
}

// It does not run in a bubble: callers that wait for a connection borrow timers
// that go-redis shares among all clients, and a timer of another bubble would
// never fire here.
func TestClassify_ExhaustedPoolHasFailed(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	rdb := s.Client(nil)
	o := *rdb.Options()
	o.PoolSize, o.PoolTimeout, o.PushNotificationProcessor = 1, 10*time.Millisecond, nil
	once(&o)
	one := redis.NewClient(&o)
	defer func() { _ = one.Close() }()
	conn := one.Conn() // it has the only connection
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.Ping(t.Context()).Err())
	err := one.Get(t.Context(), "k").Err()
	require.ErrorIs(t, err, redis.ErrPoolTimeout)
	require.Equal(t, failure, classify(t.Context(), time.Time{}, err))
}

func TestClassify_ClosedClientIsNeutral(t *testing.T) {
	t.Parallel()
	for name, rdb := range map[string]redis.UniversalClient{
		"client":  redis.NewClient(&redis.Options{}),
		"cluster": redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{closedPort(t)}}),
		"ring":    redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": closedPort(t)}}),
	} {
		require.NoError(t, rdb.Close())
		err := rdb.Get(t.Context(), "k").Err()
		require.Equal(t, neutral, classify(t.Context(), time.Now(), err), "%s: %v", name, err)
	}
}
