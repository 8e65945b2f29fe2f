package circuit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/breaker"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/redistest"
)

var errDial = &net.OpError{Op: "dial", Net: "tcp", Err: errBroken}

// scattered returns a client of a Cluster of three masters. Slot i belongs to
// the master i%3, until owner says otherwise.
func scattered(t *testing.T, owner func(slot int) int) *redis.ClusterClient {
	rdb := redis.NewClusterClient(&redis.ClusterOptions{ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
		all := make([]redis.ClusterSlot, slots)
		for i := range all {
			all[i] = redis.ClusterSlot{Start: i, End: i, Nodes: []redis.ClusterNode{{Addr: addr(owner(i))}}}
		}
		return all, nil
	}, Dialer: func(context.Context, string, string) (net.Conn, error) { return nil, errDial }, DialerRetries: 1})
	t.Cleanup(func() { _ = rdb.Close() })
	_ = rdb.Ping(t.Context()) // it learns the slots
	return rdb
}

func addr(i int) string { return fmt.Sprintf("127.0.0.1:%d", i+1) }

func byThree(slot int) int { return slot % 3 }

// keyOf returns a key of a slot that belongs to an owner.
func keyOf(owner int) func(i int) string {
	var keys []string
	for i := 0; len(keys) < 200; i++ {
		if key := fmt.Sprint("key:", i); byThree(slot(key)) == owner {
			keys = append(keys, key)
		}
	}
	return func(i int) string { return keys[i] }
}

func TestOf_HasOneCircuitForAMasterOfScatteredSlots(t *testing.T) {
	t.Parallel()
	cs := newCircuits(scattered(t, byThree))
	its, other := keyOf(1), keyOf(2)
	for i := range 3 {
		require.NoError(t, cs.Of(its(i)).Allow())
		cs.Of(its(i)).Done(t.Context(), time.Time{}, io.EOF)
	}
	for i := range 200 {
		require.ErrorIs(t, cs.Of(its(i)).Allow(), ErrAway)
		require.NoError(t, cs.Of(other(i)).Allow(), "of a master that is well")
	}
	require.Equal(t, breaker.Open, cs.State())
	require.EqualValues(t, 1, cs.opened())

	cs.Of(other(0)).Done(t.Context(), time.Time{}, nil)
	require.Error(t, cs.Of(its(0)).Allow())
	cs.Of(its(100)).Done(t.Context(), time.Time{}, redis.Nil)
	require.NoError(t, cs.Of(its(0)).Allow())
	require.Equal(t, breaker.Closed, cs.State())
	require.Nil(t, cs.troubled.Load(), "reads look at no more than this")
	require.EqualValues(t, 1, cs.opened())
}

func TestOf_AsksTheMasterThatHasTakenTheSlots(t *testing.T) {
	t.Parallel()
	takes := make(chan struct{})
	rdb := scattered(t, func(slot int) int {
		select {
		case <-takes:
			return 2 // of all slots
		default:
			return byThree(slot)
		}
	})
	cs, its := newCircuits(rdb), keyOf(1)
	cs.Of(its(0)).Done(t.Context(), time.Time{}, errDial)
	require.Error(t, cs.Of(its(1)).Allow())
	close(takes)
	require.Eventually(t, func() bool { rdb.ReloadState(t.Context()); return cs.Of(its(1)).Allow() == nil }, patience, time.Millisecond)
	require.Equal(t, breaker.Open, cs.State(), "the old master is away")
}

func TestOf_HasACircuitForAShardOfARing(t *testing.T) {
	t.Parallel()
	rdb := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": closedPort(t), "b": closedPort(t)}, HeartbeatFrequency: time.Hour})
	t.Cleanup(func() { _ = rdb.Close() })
	cs := newCircuits(rdb)
	var keys [2][]string
	first := cs.server("0")
	for i := range 100 {
		key := fmt.Sprint(i)
		at := 0
		if cs.server(key) != first {
			at = 1
		}
		keys[at] = append(keys[at], key)
	}
	require.NotEmpty(t, keys[1])
	cs.Of(keys[0][0]).Done(t.Context(), time.Time{}, errDial)
	for _, key := range keys[0] {
		require.Error(t, cs.Of(key).Allow())
	}
	for _, key := range keys[1] {
		require.NoError(t, cs.Of(key).Allow())
	}
}

func TestOf_HasOneCircuitWhileTheClientKnowsNoServer(t *testing.T) {
	t.Parallel()
	knows := make(chan struct{})
	rdb := redis.NewClusterClient(&redis.ClusterOptions{ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
		select {
		case <-knows:
			return []redis.ClusterSlot{{Start: 0, End: slots - 1, Nodes: []redis.ClusterNode{{Addr: addr(0)}}}}, nil
		default:
			return nil, errBroken
		}
	}})
	t.Cleanup(func() { _ = rdb.Close() })
	cs := newCircuits(rdb)
	cs.Of("a").Done(t.Context(), time.Time{}, errDial)
	require.Error(t, cs.Of("b").Allow())
	close(knows)
	_ = rdb.Ping(t.Context())
	require.NoError(t, cs.Of("b").Allow())
	cs.Of("b").Done(t.Context(), time.Time{}, nil)
	require.Equal(t, breaker.Closed, cs.State())
}

func TestState_IgnoresAnIdleServer(t *testing.T) {
	t.Parallel()
	cs := newCircuits(scattered(t, byThree))
	synctest.Test(t, func(t *testing.T) {
		cs.Of(keyOf(0)(0)).Done(t.Context(), time.Time{}, errDial)
		require.Equal(t, breaker.Open, cs.State())
		time.Sleep(50 * time.Second)
		require.Error(t, cs.Of(keyOf(0)(1)).Allow())
		time.Sleep(50 * time.Second)
		require.Equal(t, breaker.Open, cs.State(), "somebody has asked")
		time.Sleep(11 * time.Second)
		require.Equal(t, breaker.Closed, cs.State())
		cs.Of(keyOf(1)(0)).Done(t.Context(), time.Time{}, io.EOF)
		require.Len(t, cs.all(), 1, "and it is forgotten when another one fails")
		require.EqualValues(t, 1, cs.opened())
		time.Sleep(time.Second) // the client pauses after it has looked up its masters
	})
}

// A round trip to several servers tells them apart.
func TestDone_BlamesTheServersThatDidNotAnswer(t *testing.T) {
	t.Parallel()
	a, b := keyOf(0), keyOf(1)
	left, leave := context.WithCancel(t.Context())
	leave()
	long := time.Now().Add(-time.Second)
	for name, c := range map[string]struct {
		ctx  context.Context
		errs []error // of a(0), b(0), a(1), b(1)
		want [2]bool // whether a and b may be read after three such trips
	}{
		"well":                 {t.Context(), []error{nil, redis.Nil, nil, nil}, [2]bool{true, true}},
		"one fails":            {t.Context(), []error{io.EOF, nil, io.EOF, nil}, [2]bool{false, true}},
		"one answers in part":  {t.Context(), []error{nil, io.EOF, io.EOF, io.EOF}, [2]bool{true, false}},
		"one answers at last":  {t.Context(), []error{io.EOF, io.EOF, nil, io.EOF}, [2]bool{true, false}},
		"moved is no evidence": {t.Context(), []error{errors.New("x"), nil, moved, nil}, [2]bool{false, true}},
		"left, one answered":   {left, []error{nil, context.Canceled, nil, context.Canceled}, [2]bool{true, false}},
		"left, none answered":  {left, []error{context.Canceled, context.Canceled, context.Canceled, context.Canceled}, [2]bool{false, false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs := newCircuits(scattered(t, byThree))
			for range 3 {
				cs.Done(c.ctx, long, 4, func(i int) (string, error) {
					return []string{a(0), b(0), a(1), b(1)}[i], c.errs[i]
				})
			}
			require.Equal(t, c.want, [2]bool{cs.Of(a(7)).Allow() == nil, cs.Of(b(7)).Allow() == nil})
		})
	}
}

// If a caller of many keys leaves, the silent server is unknown. The next calls
// find it out.
func TestDone_OfALeavingCallerBlamesAllServersUntilTheFirstProbe(t *testing.T) {
	t.Parallel()
	cs := newCircuits(scattered(t, byThree))
	silent, well := cs.Of(keyOf(0)(0)), cs.Of(keyOf(1)(0))
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		leave()
		for range 3 {
			cs.Done(ctx, time.Now().Add(-time.Second), 2, func(i int) (string, error) {
				return []string{silent.key, well.key}[i], context.Canceled
			})
		}
		time.Sleep(200 * time.Millisecond)
		for r, err := range map[Route]error{silent: io.EOF, well: redis.Nil} {
			require.Error(t, r.Allow())
			r.Probe(guard.Run, func(context.Context) error { return err })
		}
		require.NoError(t, well.Allow())
		require.Error(t, silent.Allow())
		time.Sleep(time.Second) // the client pauses after it has looked up its masters
	})
}

var moved = reply("MOVED 1 127.0.0.1:1")

type reply string

func (r reply) Error() string { return string(r) }
func (reply) RedisError()     {}

// A stopped master answers no command, and its connections stay open.
func TestOf_AsksAStoppedMasterThreeTimesWhateverItsSlots(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3)
	rdb := cluster.Client(&redis.ClusterOptions{ReadTimeout: 50 * time.Millisecond, MaxRedirects: 1, DialerRetries: 1})
	cs := For(rdb)
	stopped := cluster.Owner("x")
	var its []string
	for i := 0; len(its) < 60; i++ {
		if key := fmt.Sprint(i); cluster.Owner(key) == stopped {
			its = append(its, key)
		}
	}
	require.Eventually(t, func() bool { return rdb.Get(t.Context(), its[0]).Err() == redis.Nil }, patience, time.Millisecond)
	stopped.Stop()
	defer stopped.Cont()
	asked := 0
	for _, key := range its {
		r := cs.Of(key)
		if r.Allow() != nil {
			continue
		}
		asked++
		began := time.Now()
		err := rdb.Get(t.Context(), key).Err()
		require.Error(t, err)
		r.Done(t.Context(), began, err)
	}
	require.Equal(t, 3, asked)
}
