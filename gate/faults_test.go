package gate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/gate"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

func init() { redistest.Register("gate holder", holdGate) }

// holdGate is another process of the fleet, which is killed in Do.
func holdGate() {
	rdb := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS")})
	g, err := gate.New(rdb, gate.Spec[int]{Key: os.Getenv("PREFIX") + ":{id}", Every: time.Hour})
	if err == nil {
		err = g.Do(context.Background(), 1, func(context.Context) error {
			fmt.Println("passed")
			select {}
		})
	}
	fmt.Println(err)
}

func TestTheGateOfAProcessThatIsKilledStaysClosed(t *testing.T) {
	t.Parallel()
	server, prefix := redistest.Shared(t), redistest.Key(t)
	child := redistest.Child(t, "gate holder", "REDIS="+server.Addr(), "PREFIX="+prefix)
	child.WaitLine("passed")
	child.Kill()
	rdb := server.Client(nil)
	g := gateOf(t, rdb, prefix, time.Hour)
	ok, retryAfter, err := g.Try(t.Context(), 1)
	require.NoError(t, err)
	require.False(t, ok)
	require.Greater(t, retryAfter, time.Hour-time.Minute)

	require.NoError(t, rdb.PExpire(t.Context(), prefix+":1", time.Millisecond).Err()) // the interval is over
	require.Eventually(t, func() bool { ok, _, err = g.Try(t.Context(), 1); return err != nil || ok }, patience, time.Millisecond)
	require.NoError(t, err)
}

// known makes the server know the scripts, so that a command that fails is the
// one that would have done the work.
func known(t testing.TB, rdb redis.UniversalClient) {
	t.Helper()
	for _, s := range []*script.Script{script.PassGate, script.ReopenGate, script.ResetGate} {
		_, err := s.Run(t.Context(), rdb, redistest.Key(t), "12345678", 1)
		require.NoError(t, err)
	}
}

// clients returns a client of each kind whose connections all go through a proxy,
// without the time that go-redis spends on a server that is away.
func clients(t testing.TB, proxy string) map[string]redis.UniversalClient {
	t.Helper()
	plain := redis.NewClient(&redis.Options{Addr: proxy, PoolSize: 1})
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": proxy}, PoolSize: 1, HeartbeatFrequency: patience})
	cluster := redis.NewClusterClient(&redis.ClusterOptions{
		ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
			return []redis.ClusterSlot{{Start: 0, End: 16383, Nodes: []redis.ClusterNode{{Addr: proxy}}}}, nil
		},
		PoolSize: 1,
	})
	batching := redis.NewClient(&redis.Options{Addr: proxy, PoolSize: 1})
	auto, err := batching.AutoPipeline()
	require.NoError(t, err)
	t.Cleanup(func() {
		for _, c := range []io.Closer{plain, ring, cluster, auto, batching} {
			_ = c.Close()
		}
	})
	return map[string]redis.UniversalClient{"client": plain, "ring": ring, "cluster": cluster, "autopipeline": auto}
}

// The connection breaks after the server has closed the gate. A SET NX that the
// client repeats would say "closed" to the one who has passed.
func TestWhoHasPassedLearnsOfItThoughTheReplyIsLost(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		known(t, rdb)
		proxy := redistest.NewProxy(t, rdb.Options().Addr)
		for kind, client := range clients(t, proxy.Addr()) {
			g := newGate(t, client, time.Hour)
			require.NoError(t, client.Ping(t.Context()).Err()) // so that it is connected
			proxy.LoseReplies(1)
			ok, _, err := g.Try(t.Context(), 1)
			require.NoError(t, err, kind)
			require.True(t, ok, kind)
			tries(t, g, 1, false)

			proxy.LoseReplies(1) // and one of Redis, that somebody else has passed
			ok, retryAfter, err := g.Try(t.Context(), 1)
			require.NoError(t, err, kind)
			require.False(t, ok, kind)
			require.NotZero(t, retryAfter, kind)

			calls := 0
			proxy.LoseReplies(1)
			require.NoError(t, g.Do(t.Context(), 2, func(context.Context) error { calls++; return nil }), kind)
			require.Equal(t, 1, calls, kind)
		}
	})
}

func TestAReplyThatIsLostForGoodIsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		known(t, rdb)
		for _, executed := range []bool{true, false} {
			faults := new(redistest.Faults)
			client := again(t, rdb, nil)
			client.AddHook(faults)
			prefix := redistest.Key(t)
			g, other := gateOf(t, client, prefix, time.Hour), gateOf(t, rdb, prefix, time.Hour)

			faults.Add(redistest.Fault{Times: redistest.Always, Executed: executed})
			ok, retryAfter, err := g.Try(t.Context(), 1)
			require.False(t, ok)
			require.Zero(t, retryAfter)
			require.ErrorIs(t, err, gate.ErrOutcomeUnknown)
			require.ErrorIs(t, err, io.EOF)
			require.ErrorContains(t, err, "cachex: try "+prefix+":1: outcome unknown: ")
			tries(t, other, 1, !executed)

			err = g.Do(t.Context(), 2, unreachable(t))
			require.ErrorIs(t, err, gate.ErrOutcomeUnknown)
			require.ErrorContains(t, err, "cachex: do "+prefix+":2: outcome unknown: ")
			tries(t, other, 2, !executed)

			err = g.Reset(t.Context(), 1)
			require.ErrorIs(t, err, gate.ErrOutcomeUnknown)
			tries(t, other, 1, executed)
		}
	})
}

// The client itself must not repeat what it sends: it would hide that a reply was
// lost, and a copy that is late would close or open what nobody asked for.
func TestTheClientRepeatsNothingByItself(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		client, sent := again(t, rdb, nil), 0
		client.AddHook(&redistest.Gate{Before: func(_ context.Context, cmd redis.Cmder) {
			c, ok := cmd.(interface{ NoRetry() bool })
			require.True(t, ok && c.NoRetry(), cmd.Name())
			sent++
		}})
		g := newGate(t, client, time.Hour)
		tries(t, g, 1, true)
		require.NoError(t, g.Reset(t.Context(), 1))
		require.GreaterOrEqual(t, sent, 2)
	})
}

func TestWhoHasLeftIsNotAskedForAgain(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		known(t, rdb)
		ctx, cancel := context.WithCancel(t.Context())
		client, counter, faults := again(t, rdb, nil), new(redistest.Counter), new(redistest.Faults)
		client.AddHook(counter)
		client.AddHook(faults)
		faults.Add(redistest.Fault{Match: func(redis.Cmder) bool { cancel(); return true }, Executed: true})
		_, _, err := newGate(t, client, time.Hour).Try(ctx, 1)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, gate.ErrOutcomeUnknown)
		require.Equal(t, 1, counter.Count("evalsha"))
	})
}

// A first copy may have closed the gate before Redis refused the second.
func TestARefusalAfterALostReplyIsStillAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		known(t, rdb)
		for name, second := range map[string]error{
			"Redis refuses":   answer("READONLY You can't write against a read only replica."),
			"nothing listens": &net.OpError{Op: "dial", Err: io.ErrUnexpectedEOF},
		} {
			faults := new(redistest.Faults)
			client := again(t, rdb, nil)
			client.AddHook(faults)
			g := newGate(t, client, time.Hour)
			faults.Add(redistest.Fault{Executed: true})
			faults.Add(redistest.Fault{Err: second})
			_, _, err := g.Try(t.Context(), 1)
			require.ErrorIs(t, err, gate.ErrOutcomeUnknown, name)
			require.ErrorIs(t, err, second, name)
			tries(t, g, 1, false)

			faults.Add(redistest.Fault{Err: second}) // and without a copy before, nothing has happened
			_, _, err = g.Try(t.Context(), 2)
			require.ErrorIs(t, err, second, name)
			require.NotErrorIs(t, err, gate.ErrOutcomeUnknown, name)
			tries(t, g, 2, true)
		}
	})
}

// An answer is an error of Redis.
type answer string

func (e answer) Error() string { return string(e) }
func (answer) RedisError()     {}

func TestARedisThatIsAwayOpensNoGateAndClosesNone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(func(o *redis.Options) {
		o.DialerRetries, o.DialTimeout, o.ContextTimeoutEnabled = 1, time.Second, true
	})
	prefix := redistest.Key(t)
	g := gateOf(t, rdb, prefix, time.Hour)
	require.NoError(t, g.Reset(t.Context(), 1))
	tries(t, g, 3, true) // the script is known, and there is a connection

	server.Stop() // silent
	// So long that it has been sent by then, on a machine that is busy too.
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, context.DeadlineExceeded)
	defer cancel()
	ok, _, err := g.Try(ctx, 1)
	require.False(t, ok)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, gate.ErrOutcomeUnknown)
	server.Cont()

	server.Kill()
	require.NoError(t, rdb.Close())
	rdb = server.Client(func(o *redis.Options) { o.DialerRetries = 1 })
	g = gateOf(t, rdb, prefix, time.Hour)
	ok, _, err = g.Try(t.Context(), 2)
	require.False(t, ok)
	require.Error(t, err)
	require.NotErrorIs(t, err, gate.ErrOutcomeUnknown, "it was not sent")
	require.Error(t, g.Do(t.Context(), 2, unreachable(t)))
	require.Error(t, g.Reset(t.Context(), 2))
}

func TestAGateThatCannotBeReopenedIsReported(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		known(t, rdb)
		faults := new(redistest.Faults)
		client := again(t, rdb, nil)
		client.AddHook(faults)
		prefix := redistest.Key(t)
		g := gateOf(t, client, prefix, time.Hour)
		broken := errors.New("no mail server")
		err := g.Do(t.Context(), 1, func(context.Context) error {
			faults.Add(redistest.Fault{Times: redistest.Always})
			return broken
		})
		require.ErrorIs(t, err, broken)
		require.ErrorIs(t, err, io.EOF)
		require.ErrorContains(t, err, "cachex: reopen "+prefix+":1: the gate may stay closed for up to 1h0m0s: ")
		faults.Clear()
		tries(t, g, 1, false)
	})
}

func TestAServerThatHasLostItsKeysHasOpenGates(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	g := newGate(t, server.Client(nil), time.Hour)
	tries(t, g, 1, true)
	tries(t, g, 1, false)
	server.Restart()
	tries(t, g, 1, true) // the client dials anew, and the server is told the script anew
	tries(t, g, 1, false)
}

func TestGatesWorkOnAClusterAndThroughATwemproxy(t *testing.T) {
	t.Parallel()
	for kind, start := range map[string]func(*testing.T) redis.UniversalClient{
		"cluster": func(t *testing.T) redis.UniversalClient { return redistest.StartCluster(t, 3).Client(nil) },
		"twemproxy": func(t *testing.T) redis.UniversalClient {
			return redistest.StartTwemproxy(t, 0, redistest.Start(t).Addr(), redistest.Start(t).Addr())
		},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			g := newGate(t, start(t), time.Hour)
			for id := range 50 { // on all nodes
				tries(t, g, id, true)
				tries(t, g, id, false)
				require.NoError(t, g.Reset(t.Context(), id))
				require.Equal(t, io.EOF, g.Do(t.Context(), id, func(context.Context) error { return io.EOF }))
				require.NoError(t, g.Do(t.Context(), id, nothing))
				tries(t, g, id, false)
			}
		})
	}
}

// A proxy that loses its server says so by an error that looks like one of Redis.
func TestAServerLostBehindATwemproxyIsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	g := newGate(t, redistest.StartTwemproxy(t, 2*time.Second, server.Addr()), time.Hour)
	tries(t, g, 1, true)
	server.Stop()
	_, _, err := g.Try(t.Context(), 2)
	server.Cont()
	require.ErrorContains(t, err, "Connection timed out")
	require.ErrorIs(t, err, gate.ErrOutcomeUnknown)
	require.Eventually(t, func() bool { // once the proxy has the server again, which has run what it was sent
		ok, _, err := g.Try(t.Context(), 2)
		return err == nil && !ok
	}, patience, 10*time.Millisecond)
}
