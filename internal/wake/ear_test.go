package wake

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// patience bounds every wait in real time.
var patience = redistest.Patience

// live begins to wait for a key, and returns when the subscription is
// confirmed.
func live(t *testing.T, l *Listener, key string) *Wait {
	t.Helper()
	w := l.Expect(key, key)
	require.Eventually(t, func() bool { return w.begin(0) }, patience, time.Millisecond)
	looks(t, w, "as it may have missed a message")
	return w
}

// looks waits until w says that the key should be read, for patience by the
// test's clock.
func looks(t *testing.T, w *Wait, why string) {
	t.Helper()
	select {
	case <-w.look:
	case <-time.After(patience):
		require.FailNow(t, "not woken", why)
	}
}

// connections returns the number of connections of l.
func connections(l *Listener) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ears)
}

func TestListener_HearsOfTheKeyThatItWaitsForAlone(t *testing.T) {
	t.Parallel()
	rdb := redistest.Shared(t).Client(nil)
	key := redistest.Key(t)
	var waits []*Wait
	for i := range 20 {
		l := For(redistest.Shared(t).Client(nil))
		t.Cleanup(func() { l.Release()() })
		w := live(t, l, fmt.Sprintf("%s:%d", key, i))
		t.Cleanup(w.End)
		waits = append(waits, w)
	}
	require.EqualValues(t, 1, redistest.Subscribers(t, rdb, script.WakeChannel(key+":7", key+":7")))
	_, err := script.Wake.Run(t.Context(), rdb, key+":7")
	require.NoError(t, err)
	<-waits[7].look
	for i, w := range waits {
		require.Empty(t, w.look, i)
	}
}

func TestListener_LeavesAChannelAfterOneMessageForNoWaiter(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		l := For(rdb)
		w := l.Expect("k", "k")
		w.begin(0)
		synctest.Wait()
		require.True(t, w.begin(0))
		w.End()
		require.EqualValues(t, 1, redistest.Subscribers(t, rdb, script.WakeChannel("k", "k")))
		redistest.Publish(t, rdb, script.WakeChannel("k", "k"), "k")
		synctest.Wait()
		require.Zero(t, redistest.Subscribers(t, rdb, script.WakeChannel("k", "k")))
		require.Equal(t, 1, connections(l), "the connection stays a while")
		time.Sleep(Idle + 2*Tick)
		synctest.Wait()
		require.Zero(t, connections(l))
		if wait := l.Release(); wait != nil {
			wait()
		}
	})
}

// A Cluster of Redis 7 wakes waiters through sharded channels, for keys of any
// form.
func TestListener_OfAClusterIsWoken(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartCluster(t, 3).Client(nil)
	l := For(rdb)
	require.NotNil(t, l)
	for i := range 12 {
		for _, key := range []string{fmt.Sprint("k:", i), fmt.Sprintf("{k:%d}:x", i), fmt.Sprintf("{k:%d", i)} {
			w := live(t, l, key)
			_, err := script.Wake.Run(t.Context(), rdb, key)
			require.NoError(t, err)
			looks(t, w, key)
			w.End()
		}
	}
	require.Equal(t, 3, connections(l))
	l.Release()()
}

// A slot that moves takes its subscriptions with it. Its waiters read their
// keys, because a message may have been sent meanwhile, and subscribe on the
// new node.
func TestListener_FollowsASlotThatMoves(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3)
	rdb := cluster.Client(nil)
	l := For(rdb)
	w := live(t, l, "k")
	from := cluster.Owner("k")
	to := cluster.OtherThan(from)
	cluster.Move(cluster.Slot("k"), to, func() {})
	require.Eventually(t, func() bool {
		_ = rdb.Get(t.Context(), "k").Err() // as a waiter that polls
		w.begin(0)
		l.mu.Lock()
		defer l.mu.Unlock()
		e := l.ears[to.Addr()]
		return e != nil && e.channels[w.channel] != nil && e.channels[w.channel].live
	}, patience, time.Millisecond)
	<-w.look
	for len(w.look) > 0 {
		<-w.look
	}
	_, err := script.Wake.Run(t.Context(), rdb, "k")
	require.NoError(t, err)
	looks(t, w, "a message on the new node")
	w.End()
	l.Release()()
}

// A server before Redis 7 does not support sharded channels, and an older ACL
// may not allow them.
func TestListener_OfAServerWithoutShardedChannelsIsWoken(t *testing.T) {
	t.Parallel()
	old := redistest.Start(t, "--rename-command", "SSUBSCRIBE", "", "--rename-command", "SPUBLISH", "", "--rename-command", "SUNSUBSCRIBE", "")
	strict := redistest.Start(t)
	require.NoError(t, strict.Client(nil).Do(t.Context(), "ACL", "SETUSER", "plain", "on", ">secret", "~*", "&cachex:wake:*",
		"+@all", "-ssubscribe", "-spublish", "-sunsubscribe").Err())
	for name, rdb := range map[string]*redis.Client{
		"an old server": old.Client(nil),
		"an ACL":        strict.Client(func(o *redis.Options) { o.Username, o.Password = "plain", "secret" }),
	} {
		l := For(rdb)
		w := live(t, l, "k")
		n, err := rdb.PubSubNumSub(t.Context(), w.channel).Result()
		require.NoError(t, err, name)
		require.EqualValues(t, 1, n[w.channel], name)
		for range 3 {
			_, err = script.Wake.Run(t.Context(), rdb, "k")
			require.NoError(t, err, name)
			looks(t, w, name)
		}
		w.End()
		l.Release()()
	}
}

// quiet is a connection that loses everything it receives from some time on. A
// firewall that has dropped the connection has the same effect.
type quiet struct {
	net.Conn
	on *atomic.Bool
}

func (q quiet) Read(b []byte) (int, error) {
	for {
		n, err := q.Conn.Read(b)
		if err != nil || !q.on.Load() {
			return n, err
		}
	}
}

func TestListener_FindsThatItsConnectionIsLostWithoutAWord(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		var on []*atomic.Bool // of the connections, in their order
		o := *rdb.Options()
		dial := o.Dialer
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			on = append(on, new(atomic.Bool))
			return quiet{conn, on[len(on)-1]}, err
		}
		mine := redis.NewClient(&o)
		defer func() { _ = mine.Close() }()
		l := For(mine)
		w := l.Expect("k", "k")
		w.begin(0)
		synctest.Wait()
		require.True(t, w.begin(0))
		<-w.look
		for range 3 {
			on[len(on)-1].Store(true)
			begin := time.Now()
			looks(t, w, "its connection is lost")
			require.LessOrEqual(t, time.Since(begin), 3*Tick)
			require.False(t, w.begin(0))
			synctest.Wait()
			require.True(t, w.begin(0), "it listens anew")
			<-w.look
			time.Sleep(10 * Tick)
			require.Empty(t, w.look, "a connection that answers stays")
		}
		redistest.Publish(t, rdb, w.channel, "k")
		<-w.look
		w.End()
		l.Release()()
	})
}

// A server may push anything. The process lives and its waiters poll.
func TestListener_OutlivesNonsense(t *testing.T) {
	t.Parallel()
	for _, reply := range append([]string{
		"*3\r\n$10\r\nssubscribe\r\n$15\r\ncachex:wake:{k}\r\n:1\r\n*3\r\n$8\r\nsmessage\r\n*0\r\n*0",
		"*3\r\n$10\r\nssubscribe\r\n$15\r\ncachex:wake:{k}\r\n:1\r\n*3\r\n$8\r\nsmessage\r\n$15\r\ncachex:wake:{k}\r\n*1\r\n:1",
		"*3\r\n$10\r\nssubscribe\r\n$-1\r\n$-1", "*1\r\n$8\r\nsmessage", "*2\r\n$4\r\npong\r\n:1", "*3\r\n$12\r\nsunsubscribe\r\n$-1\r\n:0",
	}, redistest.Nonsense...) {
		reply = strings.TrimSuffix(reply, "…")
		rdb := redis.NewClient(&redis.Options{Addr: redistest.StartNonsense(t, reply+"\r\n…"), Protocol: 2, MaxRetries: -1, DialerRetries: 1})
		l := For(rdb)
		w := l.Expect("k", "k")
		w.begin(0)
		looks(t, w, fmt.Sprintf("%q", reply))
		w.End()
		if wait := l.Release(); wait != nil {
			wait()
		}
		require.NoError(t, rdb.Close())
	}
}

// A listener that was not released ends when its client is no longer in use.
func TestListener_IsLetGoWithItsClient(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		used := func(closed bool) weak.Pointer[Listener] {
			mine := redis.NewClient(rdb.Options())
			l := For(mine)
			w := l.Expect("k", "k")
			w.begin(0)
			synctest.Wait()
			require.True(t, w.begin(0))
			if closed {
				require.NoError(t, mine.Close())
			}
			w.End()
			return weak.Make(l)
		}
		for _, closed := range []bool{false, true} {
			l := used(closed)
			time.Sleep(Idle + 3*Tick)
			synctest.Wait()
			require.Zero(t, redistest.Subscribers(t, rdb, script.WakeChannel("k", "k")))
			for range 100 {
				runtime.GC()
			}
			require.Nil(t, l.Value(), "closed: %v", closed)
		}
	})
}
