package gate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/gate"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

func init() { redistest.Register("gate holder", holdGate) }

// holdGate runs in another process of the fleet, which is killed in Do.
func holdGate() {
	rdb := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), ReadTimeout: redistest.Patience})
	g, err := gate.New(rdb, gate.Spec[int]{Key: os.Getenv("PREFIX") + ":{id}", Every: time.Hour})
	if err == nil {
		err = g.Do(context.Background(), 1, func(context.Context) error {
			fmt.Println("passed")
			select {}
		})
	}
	fmt.Println(err)
}

func TestDo_GateOfAKilledProcessStaysClosed(t *testing.T) {
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

// known makes the server know the scripts, so that a failing command is one
// that would have done the work.
func known(t testing.TB, rdb redis.UniversalClient) {
	t.Helper()
	for _, s := range []*script.Script{script.PassGate, script.ReopenGate, script.ResetGate} {
		_, err := s.Run(t.Context(), rdb, redistest.Key(t), "12345678", 1)
		require.NoError(t, err)
	}
}

// clients returns clients of every type whose connections all go through a
// proxy. They do not spend go-redis' usual time on an unreachable server.
func clients(t testing.TB, proxy string) map[string]redis.UniversalClient {
	t.Helper()
	plain := redis.NewClient(&redis.Options{Addr: proxy, PoolSize: 1, ReadTimeout: redistest.Patience})
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": proxy}, PoolSize: 1, HeartbeatFrequency: cachex.Forever, ReadTimeout: redistest.Patience})
	cluster := redis.NewClusterClient(&redis.ClusterOptions{
		ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
			return []redis.ClusterSlot{{Start: 0, End: 16383, Nodes: []redis.ClusterNode{{Addr: proxy}}}}, nil
		},
		PoolSize: 1, ReadTimeout: redistest.Patience,
	})
	batching := redis.NewClient(&redis.Options{Addr: proxy, PoolSize: 1, ReadTimeout: redistest.Patience})
	auto, err := batching.AutoPipeline()
	require.NoError(t, err)
	t.Cleanup(func() {
		for _, c := range []io.Closer{plain, ring, cluster, auto, batching} {
			_ = c.Close()
		}
	})
	return map[string]redis.UniversalClient{"client": plain, "ring": ring, "cluster": cluster, "autopipeline": auto}
}

// The connection breaks after the server has closed the gate. A copy could come
// after the gate has opened again, and close it although no caller has passed.
func TestTry_IsSentOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		known(t, rdb)
		proxy := redistest.NewProxy(t, rdb.Options().Addr)
		for kind, client := range clients(t, proxy.Addr()) {
			g := newGate(t, client, time.Hour)
			require.NoError(t, client.Ping(t.Context()).Err()) // to connect
			proxy.LoseReplies(1)
			ok, _, err := g.Try(t.Context(), 1)
			require.ErrorIs(t, err, gate.ErrOutcomeUnknown, kind)
			require.False(t, ok, kind)
			tries(t, g, 1, false)
			require.NoError(t, g.Reset(t.Context(), 1), kind)
			tries(t, g, 1, true)

			proxy.LoseReplies(1)
			require.ErrorIs(t, g.Do(t.Context(), 2, unreachable(t)), gate.ErrOutcomeUnknown, kind)
			tries(t, g, 2, false)
		}
	})
}

func TestTry_LostReplyIsAnUnknownOutcome(t *testing.T) {
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
			unknown := map[bool]string{true: "outcome unknown: ", false: ""}[executed] // otherwise nothing was sent
			require.Equal(t, executed, errors.Is(err, gate.ErrOutcomeUnknown))
			require.ErrorIs(t, err, io.EOF)
			require.ErrorContains(t, err, "cachex: try "+prefix+":1: "+unknown+"script ")
			tries(t, other, 1, !executed)

			err = g.Do(t.Context(), 2, unreachable(t))
			require.Equal(t, executed, errors.Is(err, gate.ErrOutcomeUnknown))
			require.ErrorContains(t, err, "cachex: do "+prefix+":2: "+unknown+"script ")
			tries(t, other, 2, !executed)

			err = g.Reset(t.Context(), 1)
			require.Equal(t, executed, errors.Is(err, gate.ErrOutcomeUnknown))
			tries(t, other, 1, executed)
		}
	})
}

func TestTry_WithoutRedisChangesNoGate(t *testing.T) {
	t.Parallel()
	server, lines := redistest.Start(t), new(redistest.Lines)
	rdb := server.Client(func(o *redis.Options) { o.Dialer = lines.Dial })
	prefix := redistest.Key(t)
	g := gateOf(t, rdb, prefix, time.Hour)
	require.NoError(t, g.Reset(t.Context(), 1))
	tries(t, g, 3, true) // the script is known, and a connection exists

	server.Stop()  // silent
	lines.Expire() // later replies come too late
	ok, _, err := g.Try(t.Context(), 1)
	require.False(t, ok)
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

func TestDo_ReportsAFailedReopening(t *testing.T) {
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

func TestTry_PassesAfterALossOfTheKeys(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	g := newGate(t, server.Client(nil), time.Hour)
	tries(t, g, 1, true)
	tries(t, g, 1, false)
	server.Restart()
	tries(t, g, 1, true) // the client reconnects, and sends the script again
	tries(t, g, 1, false)
}

func TestGate_WorksOnAClusterAndThroughTwemproxy(t *testing.T) {
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

// A proxy that loses its server reports it by an error that looks like one of
// Redis.
func TestTry_ServerLostBehindTwemproxyIsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := redistest.StartTwemproxy(t, 2*time.Second, server.Addr())
	g := newGate(t, rdb, time.Hour)
	require.Eventually(t, func() bool { // a busy machine may need more than two seconds
		_, err := script.PassGate.Run(t.Context(), rdb, redistest.Key(t), "12345678", 1)
		return err == nil
	}, patience, time.Millisecond, "the server does not learn the script")
	server.Stop()
	_, _, err := g.Try(t.Context(), 2)
	server.Cont()
	require.ErrorContains(t, err, "Connection timed out")
	require.ErrorIs(t, err, gate.ErrOutcomeUnknown)
	require.Eventually(t, func() bool { // until the proxy reaches the server again, which has executed what it received
		ok, _, err := g.Try(t.Context(), 2)
		return err == nil && !ok
	}, patience, 10*time.Millisecond)
}
