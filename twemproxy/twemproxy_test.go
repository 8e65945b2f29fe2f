package twemproxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/twemproxy"
)

// proxy returns the address of a twemproxy with two servers.
func proxy(t *testing.T) string {
	t.Helper()
	return redistest.StartTwemproxy(t, 0, redistest.Shared(t).Addr(), redistest.Start(t).Addr()).Options().Addr
}

func client(t *testing.T, rdb *redis.Client) *redis.Client {
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

func refused(t *testing.T, err error, command string) {
	t.Helper()
	var e *twemproxy.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, command, e.Command)
	require.ErrorContains(t, err, "ERR unknown command '"+command+"'")
}

func TestNewClient_ConnectsWithAnyOptions(t *testing.T) {
	t.Parallel()
	ctx, addr, key := t.Context(), proxy(t), redistest.Key(t)
	for _, o := range []*redis.Options{
		{Addr: addr, ReadTimeout: redistest.Patience},
		{Addr: addr, ReadTimeout: redistest.Patience, Protocol: 3, IdentitySuffix: "suffix", MinIdleConns: 2},
		{Addr: addr, ReadTimeout: redistest.Patience, ContextTimeoutEnabled: true, Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}},
	} {
		before := *o
		rdb := client(t, twemproxy.NewClient(o))
		require.Equal(t, before.Protocol, o.Protocol, "options are not changed")
		require.NoError(t, rdb.Set(ctx, key, "1", time.Minute).Err())
		require.Equal(t, "1", rdb.Get(ctx, key).Val())
	}
	// The options of an existing client make another one.
	rdb := client(t, twemproxy.NewClient(client(t, twemproxy.NewClient(&redis.Options{Addr: addr, ReadTimeout: redistest.Patience})).Options()))
	require.Equal(t, "1", rdb.Get(ctx, key).Val())
}

// With the Dialer alone a client connects too; an unknown command costs it the
// connection.
func TestDialer_AloneConnectsAClient(t *testing.T) {
	t.Parallel()
	ctx, addr, key := t.Context(), proxy(t), redistest.Key(t)
	for _, o := range []*redis.Options{{Addr: addr}, {Addr: addr, Protocol: 2, DisableIdentity: true}, {Addr: addr, Protocol: 3}} {
		o.Dialer, o.ReadTimeout = twemproxy.Dialer(nil), redistest.Patience
		rdb := client(t, redis.NewClient(o))
		require.NoError(t, rdb.Set(ctx, key, "1", time.Minute).Err())
		require.Error(t, rdb.Scan(ctx, 0, "", 10).Err())
		require.Equal(t, "1", rdb.Get(ctx, key).Val())
	}
	plain := client(t, redis.NewClient(&redis.Options{Addr: addr, Protocol: 2, DisableIdentity: true, ReadTimeout: redistest.Patience}))
	require.Error(t, plain.Get(ctx, key).Err(), "go-redis connects without it, so the package is of no use any more")
}

func TestNewClient_RejectsUnknownCommandsUnsent(t *testing.T) {
	t.Parallel()
	ctx, addr, key := t.Context(), proxy(t), redistest.Key(t)
	rdb := client(t, twemproxy.NewClient(&redis.Options{Addr: addr, PoolSize: 1, ReadTimeout: redistest.Patience}))
	require.NoError(t, rdb.Set(ctx, key, "1", time.Minute).Err())
	dialled := rdb.PoolStats().Misses

	refused(t, rdb.Scan(ctx, 0, "*", 10).Err(), "SCAN")
	refused(t, rdb.DBSize(ctx).Err(), "DBSIZE")
	refused(t, rdb.Eval(ctx, "return 1", nil).Err(), "EVAL")
	refused(t, rdb.Do(ctx, "ping", "hello").Err(), "PING")
	refused(t, rdb.ScriptLoad(ctx, "return 1").Err(), "SCRIPT")
	require.NoError(t, rdb.Ping(ctx).Err())
	require.EqualValues(t, 1, rdb.Eval(ctx, "return 1", []string{key}).Val())

	var get, again *redis.StringCmd
	var keys *redis.StringSliceCmd
	_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		get, keys, again = p.Get(ctx, key), p.Keys(ctx, "*"), p.Get(ctx, key+"none")
		return nil
	})
	refused(t, err, "KEYS")
	refused(t, keys.Err(), "KEYS")
	require.Equal(t, "1", get.Val())
	require.Equal(t, redis.Nil, again.Err())

	_, err = rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, key, "2", 0)
		return nil
	})
	refused(t, err, "MULTI")
	require.Equal(t, "1", rdb.Get(ctx, key).Val(), "a transaction is refused whole")
	require.Equal(t, dialled, rdb.PoolStats().Misses, "a connection was lost")

	sub := rdb.Subscribe(ctx, "channel")
	_, err = sub.Receive(ctx)
	require.ErrorContains(t, err, "ERR unknown command 'SUBSCRIBE'")
	require.NoError(t, sub.Close())
}

func TestNewClient_UnsupportedOptionsAreErrors(t *testing.T) {
	t.Parallel()
	addr := proxy(t)
	for command, o := range map[string]*redis.Options{
		"SELECT": {DB: 1}, "CLIENT": {ClientName: "me"}, "AUTH": {Username: "me", Password: "secret"},
	} {
		o.Addr, o.ReadTimeout = addr, redistest.Patience
		err := client(t, twemproxy.NewClient(o)).Get(t.Context(), "a").Err()
		// go-redis wraps the answer of the Dialer in an error of its own.
		require.ErrorContains(t, err, "ERR unknown command '"+command+"': twemproxy does not support it")
		require.NotContains(t, err.Error(), "secret")
	}
	err := client(t, twemproxy.NewClient(&redis.Options{Addr: addr, Password: "secret", ReadTimeout: redistest.Patience})).Get(t.Context(), "a").Err()
	require.ErrorContains(t, err, "ERR Client sent AUTH, but no password is set", "twemproxy itself is asked")
}

func TestNewClient_OnARingOfTwoProxies(t *testing.T) {
	t.Parallel()
	ctx, key := t.Context(), redistest.Key(t)
	ring := redis.NewRing(&redis.RingOptions{
		Addrs: map[string]string{"a": proxy(t), "b": proxy(t)}, NewClient: twemproxy.NewClient, HeartbeatFrequency: cachex.Forever,
		ReadTimeout: redistest.Patience,
	})
	t.Cleanup(func() { _ = ring.Close() })
	for i := range 20 {
		k := fmt.Sprint(key, i)
		require.NoError(t, ring.Set(ctx, k, i, time.Minute).Err())
		require.Equal(t, fmt.Sprint(i), ring.Get(ctx, k).Val())
	}
}

func TestNewClient_FailsOverToAnotherProxy(t *testing.T) {
	t.Parallel()
	ctx, key := t.Context(), redistest.Key(t)
	servers := []string{redistest.Shared(t).Addr(), redistest.Start(t).Addr()}
	var lines []*redistest.Proxy
	for range 2 {
		lines = append(lines, redistest.NewProxy(t, redistest.StartTwemproxy(t, 0, servers...).Options().Addr))
	}
	rdb := client(t, twemproxy.NewClient(&redis.Options{ReadTimeout: redistest.Patience, Dialer: func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
		for _, line := range lines {
			if conn, err = new(net.Dialer).DialContext(ctx, network, line.Addr()); err == nil {
				return conn, nil
			}
		}
		return nil, err
	}}))
	for i := range 20 {
		require.NoError(t, rdb.Set(ctx, fmt.Sprint(key, i), i, time.Minute).Err())
	}
	lines[0].Refuse()
	lines[0].Cut()
	for i := range 20 {
		require.Equal(t, fmt.Sprint(i), rdb.Get(ctx, fmt.Sprint(key, i)).Val(), "each key is on the same server, whichever proxy is asked")
	}
}

func TestNewClient_ReplacesAnIdleConnectionThatTheProxyClosed(t *testing.T) {
	t.Parallel()
	ctx, key := t.Context(), redistest.Key(t)
	between := redistest.NewProxy(t, proxy(t))
	rdb := client(t, twemproxy.NewClient(&redis.Options{Addr: between.Addr(), MaxRetries: -1, ReadTimeout: redistest.Patience}))
	require.NoError(t, rdb.Set(ctx, key, "1", time.Minute).Err())
	between.Cut()
	require.Eventually(t, func() bool { return rdb.Get(ctx, key).Val() == "1" }, redistest.Patience, time.Millisecond, "no retry was needed")
}

// knows asks the proxy itself, with one argument, two and so on, since the
// proxy also closes the connection on a wrong number of arguments.
func knows(t *testing.T, addr, name, key string, wait time.Duration) bool {
	for args := 0; args < 7; args++ {
		conn, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		text := fmt.Sprintf("*%d\r\n$%d\r\n%s\r\n", 1+args, len(name), name)
		for i := range args {
			arg := key
			if (name == "eval" || name == "evalsha") && i == 1 {
				arg = "1"
			}
			text += fmt.Sprintf("$%d\r\n%s\r\n", len(arg), arg)
		}
		_, err = conn.Write([]byte(text))
		require.NoError(t, err)
		_ = conn.SetReadDeadline(time.Now().Add(wait))
		_, err = bufio.NewReader(conn).ReadByte()
		_ = conn.Close()
		var silent net.Error
		if errors.As(err, &silent) && silent.Timeout() {
			t.Log(name, args, "is not answered")
			continue
		}
		if err == nil {
			return true
		}
	}
	return false
}

func TestKnows_MatchesTwemproxy(t *testing.T) {
	t.Parallel()
	addr, key := proxy(t), redistest.Key(t)
	server := redistest.Shared(t).Client(nil)
	commands, err := server.Do(t.Context(), "command", "list").StringSlice()
	require.NoError(t, err)
	require.Greater(t, len(commands), 200)
	for _, name := range commands {
		switch {
		case strings.Contains(name, "|"), name == "quit": // QUIT is for connections
		case strings.HasPrefix(name, "blpop"), strings.HasPrefix(name, "b") && name != "bitcount" && name != "bitfield" && name != "bitpos":
			require.False(t, twemproxy.Knows(name), name)
		default:
			wait, want := 200*time.Millisecond, twemproxy.Knows(name)
			got := knows(t, addr, name, key, wait)
			for want && !got && wait < redistest.Patience { // a busy machine may need longer
				wait *= 4
				got = knows(t, addr, name, key, wait)
			}
			if got != want {
				t.Errorf("%s: twemproxy knows it: %v", name, got)
			}
		}
	}
}
