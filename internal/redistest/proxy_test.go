package redistest

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// through returns a proxy, a client that connects through it and does not
// retry, and a client that connects directly to the server.
func through(t *testing.T) (*Proxy, *redis.Client, *redis.Client) {
	return throughLines(t, nil)
}

// throughLines is through, but the client of the proxy dials by lines.
func throughLines(t *testing.T, lines *Lines) (*Proxy, *redis.Client, *redis.Client) {
	s := Start(t)
	p := NewProxy(t, s.Addr())
	spoilt := s.Client(func(o *redis.Options) {
		o.Addr = p.Addr()
		if lines != nil {
			o.Dialer = lines.Dial
		}
		o.MaxRetries = -1
		o.ContextTimeoutEnabled = true
	})
	require.NoError(t, spoilt.Ping(t.Context()).Err())
	return p, spoilt, s.Client(nil)
}

func TestProxyPassesOnWhateverIsSent(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, rdb, straight := through(t)
	large := string(make([]byte, 3<<20))
	require.NoError(t, rdb.Set(ctx, "a", large, 0).Err())
	require.Equal(t, large, straight.Get(ctx, "a").Val())
	require.Equal(t, large, rdb.Get(ctx, "a").Val())
}

func TestProxyDelaysBothWays(t *testing.T) {
	t.Parallel()
	p, rdb, _ := through(t)
	p.Delay(20 * time.Millisecond)
	start := time.Now()
	require.NoError(t, rdb.Ping(t.Context()).Err())
	require.GreaterOrEqual(t, time.Since(start), 40*time.Millisecond)
}

func TestProxyCutResetsConnectionsAndNewOnesAreFine(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p, rdb, _ := through(t)
	conn, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = conn.Write([]byte("PING\r\n"))
	require.NoError(t, err)
	_, err = io.ReadFull(conn, make([]byte, len("+PONG\r\n")))
	require.NoError(t, err)

	p.Cut()
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.Eventually(t, func() bool { return rdb.Ping(ctx).Err() == nil }, Patience, time.Millisecond,
		"an idle connection is replaced when it is found dead, at the latest by a command")
}

func TestProxyLosesTheReplyOfAnExecutedCommandAndGoRedisRepeatsIt(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p, once, straight := through(t)
	p.LoseReplies(1)
	require.Error(t, once.Incr(ctx, "a").Err())
	require.Equal(t, "1", straight.Get(ctx, "a").Val())

	retrying := redis.NewClient(&redis.Options{Addr: p.Addr(), MaxRetries: 3, ReadTimeout: Patience})
	t.Cleanup(func() { _ = retrying.Close() })
	require.NoError(t, retrying.Ping(ctx).Err())
	p.LoseReplies(1)
	require.Equal(t, int64(3), retrying.Incr(ctx, "a").Val(), "one INCR, sent twice, of a key that holds 1")
}

func TestProxyCutsTheReplyOfAnExecutedCommandShort(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p, once, straight := through(t)
	require.NoError(t, straight.Set(ctx, "a", "a value of some length", 0).Err())
	require.NoError(t, once.Ping(ctx).Err())
	p.CutShort(1)
	require.ErrorIs(t, once.Append(ctx, "a", ".").Err(), io.EOF)
	require.Equal(t, "a value of some length.", straight.Get(ctx, "a").Val())
	require.NoError(t, once.Ping(ctx).Err())
	p.CutShort(1)
	require.ErrorIs(t, once.Get(ctx, "a").Err(), io.ErrUnexpectedEOF)
	require.Equal(t, "a value of some length.", once.Get(ctx, "a").Val())
}

func TestProxyThatIsMuteHasCommandsExecuted(t *testing.T) {
	t.Parallel()
	lines := new(Lines)
	p, rdb, straight := throughLines(t, lines)
	p.Mute(true)
	lines.Expire()
	require.ErrorIs(t, rdb.Set(t.Context(), "a", "1", 0).Err(), os.ErrDeadlineExceeded)
	require.Eventually(t, func() bool { return straight.Get(t.Context(), "a").Val() == "1" }, Patience, time.Millisecond)
	p.Mute(false)
	require.NoError(t, rdb.Ping(t.Context()).Err())
}

func TestProxyHoldDelaysAWriteBeyondItsClient(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	lines := new(Lines)
	p, rdb, straight := throughLines(t, lines)
	p.Hold()
	p.Hold() // a second Hold does nothing
	lines.Expire()
	require.ErrorIs(t, rdb.Set(ctx, "a", "late", 0).Err(), os.ErrDeadlineExceeded)
	require.NoError(t, rdb.Close())
	require.ErrorIs(t, straight.Get(ctx, "a").Err(), redis.Nil)
	p.Resume()
	p.Resume()
	require.Eventually(t, func() bool { return straight.Get(ctx, "a").Val() == "late" }, Patience, time.Millisecond)
}

func TestProxy_HoldNextMakesTheFirstCopyOfACommandArriveLate(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, lines := Start(t), new(Lines)
	p := NewProxy(t, s.Addr())
	straight := s.Client(nil)
	retrying := s.Client(func(o *redis.Options) { o.Addr, o.MaxRetries, o.Dialer = p.Addr(), 1, lines.Dial })
	require.NoError(t, retrying.Ping(ctx).Err())
	p.HoldNext(1, func(request []byte) bool { return bytes.Contains(request, []byte("incr")) })
	require.ErrorIs(t, retrying.Get(ctx, "other").Err(), redis.Nil, "another command passes")
	answer := make(chan *redis.IntCmd)
	go func() { answer <- retrying.Incr(ctx, "n") }()
	require.Eventually(t, func() bool { return p.Caught() == 1 }, Patience, time.Millisecond)
	lines.Expire()
	require.EqualValues(t, 1, (<-answer).Val(), "the second copy is answered")
	require.Equal(t, 1, p.Caught())
	require.NoError(t, straight.Set(ctx, "n", 10, 0).Err())
	require.Equal(t, 1, p.Release())
	require.Zero(t, p.Caught())
	require.Eventually(t, func() bool { return straight.Get(ctx, "n").Val() == "11" }, Patience, time.Millisecond,
		"the first copy comes after the client has gone")
	require.EqualValues(t, 12, retrying.Incr(ctx, "n").Val(), "nothing is caught any more")
	require.Positive(t, p.Spoilt())
}

func TestProxyRefusesUntilItAccepts(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p, rdb, _ := through(t)
	p.Refuse()
	p.Refuse()
	require.NoError(t, rdb.Ping(ctx).Err(), "an open connection stays")
	_, err := net.Dial("tcp", p.Addr())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	p.Accept()
	p.Accept()
	conn, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}

func TestProxyEndsWhileItHolds(t *testing.T) {
	t.Parallel()
	t.Run("and a command waits", func(t *testing.T) {
		lines := new(Lines)
		p, rdb, _ := throughLines(t, lines)
		p.Hold()
		lines.Expire()
		require.ErrorIs(t, rdb.Ping(t.Context()).Err(), os.ErrDeadlineExceeded)
	})
}

func TestProxyToAServerThatIsGoneResetsItsClients(t *testing.T) {
	t.Parallel()
	s := Start(t)
	p := NewProxy(t, s.Addr())
	s.Kill()
	conn, err := net.Dial("tcp", p.Addr())
	if err == nil { // otherwise the reset came as quickly as the connection
		defer func() { _ = conn.Close() }()
		_, err = conn.Read(make([]byte, 1))
	}
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

func TestProxyThrottlesWhatIsLong(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p, rdb, straight := through(t)
	require.NoError(t, straight.Set(ctx, "a", string(make([]byte, 20_000)), 0).Err())
	p.Throttle(100_000)
	start := time.Now()
	require.Len(t, rdb.Get(ctx, "a").Val(), 20_000)
	require.GreaterOrEqual(t, time.Since(start), 200*time.Millisecond)
	p.Throttle(0)
	require.NoError(t, rdb.Ping(ctx).Err())
}

func TestProxyLosesForGoodWhatHalfOpenConnectionsSend(t *testing.T) {
	t.Parallel()
	lines := new(Lines)
	p, rdb, straight := throughLines(t, lines)
	p.HalfOpen()
	ctx := t.Context()
	lines.Expire()
	require.Error(t, rdb.Set(ctx, "a", "1", 0).Err())
	require.NoError(t, rdb.Ping(ctx).Err(), "a new connection is fine")
	require.Zero(t, straight.Exists(ctx, "a").Val())
}

func TestProxyRepeatsAReply(t *testing.T) {
	t.Parallel()
	p, _, straight := through(t)
	require.NoError(t, straight.Set(t.Context(), "a", "1", 0).Err())
	conn, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	replies := bufio.NewReader(conn)
	asks := func(command string) {
		_, err := conn.Write([]byte(command))
		require.NoError(t, err)
	}
	hears := func(lines ...string) {
		t.Helper()
		for _, want := range lines {
			line, err := replies.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, want+"\r\n", line)
		}
	}
	p.Repeat(1)
	asks("GET a\r\n")
	hears("$1", "1", "$1", "1")
	p.RepeatLate(1)
	asks("GET a\r\n")
	hears("$1", "1")
	asks("PING\r\n")
	hears("$1", "1", "+PONG")
	asks("PING\r\n")
	hears("+PONG")
	require.EqualValues(t, 2, p.Spoilt())
}

func TestProxyGarblesTheReplyOfAnExecutedCommandAndCountsWhatItSpoils(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p, spoilt, straight := through(t)
	require.Zero(t, p.Spoilt())
	for i := range garbage {
		// The connection is already open: otherwise the commands that open it
		// would get garbage.
		require.Eventually(t, func() bool { return spoilt.Ping(ctx).Err() == nil }, Patience, time.Millisecond)
		p.Garble(1)
		key := string(rune('a' + i))
		_ = spoilt.Set(ctx, key, "x", 0).Err() // some garbage is a valid reply to SET
		require.Equal(t, "x", straight.Get(ctx, key).Val())
		require.Positive(t, p.Spoilt())
		p.Garble(0)
	}
	require.Eventually(t, func() bool { return spoilt.Ping(ctx).Err() == nil }, Patience, time.Millisecond)
	before := p.Spoilt()
	p.Cut()
	require.Greater(t, p.Spoilt(), before)
}
