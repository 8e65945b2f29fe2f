package redistest

import (
	"net"
	"os"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestStartReturnsAServerThatAnswers(t *testing.T) {
	t.Parallel()
	s := Start(t)
	conn, err := net.Dial("tcp", s.Addr())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = conn.Write([]byte("PING\r\n"))
	require.NoError(t, err)
	reply := make([]byte, 7)
	_, err = conn.Read(reply)
	require.NoError(t, err)
	require.Equal(t, "+PONG\r\n", string(reply))
	require.NoError(t, s.Client(nil).Do(t.Context(), "debug", "set-active-expire", "0").Err())
}

func TestStartAddsItsArguments(t *testing.T) {
	t.Parallel()
	rdb := Start(t, "--maxmemory", "12345678").Client(nil)
	got, err := rdb.ConfigGet(t.Context(), "maxmemory").Result()
	require.NoError(t, err)
	require.Equal(t, map[string]string{"maxmemory": "12345678"}, got)
}

func TestStartFailsWithTheWordsOfTheServer(t *testing.T) {
	t.Parallel()
	Binary(t, "redis-server")
	w := watch(t, func(t testing.TB) { Start(t, "--no-such-option", "1") })
	require.Contains(t, w.failed, "no-such-option")
}

func TestServersThatStartAtOnceGetPortsOfTheirOwn(t *testing.T) {
	t.Parallel()
	Binary(t, "redis-server")
	servers := make([]*Server, 6)
	var wg sync.WaitGroup
	for i := range servers {
		servers[i] = &Server{t: t, dir: t.TempDir()}
		wg.Go(func() {
			if err := servers[i].start(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	ids := map[string]bool{}
	for _, s := range servers {
		s.proc.attend(t)
		info, err := s.Client(nil).Info(t.Context(), "server").Result()
		require.NoError(t, err)
		id := regexp.MustCompile(`process_id:(\d+)`).FindStringSubmatch(info)[1]
		require.Equal(t, s.Pid(), atoi(t, id), "another server answers at %s", s.Addr())
		ids[id] = true
	}
	require.Len(t, ids, len(servers))
}

func TestStartTakesAnotherPortIfItsOwnIsTaken(t *testing.T) {
	t.Parallel()
	s := Start(t)
	// This asks for the port of s as a restarting server does, which has no
	// choice.
	fixed := &Server{t: t, dir: t.TempDir(), port: s.port}
	require.ErrorContains(t, fixed.start(), "Address already in use")
}

func TestRestartBringsAnEmptyServerToTheSameAddress(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := Start(t)
	rdb := s.Client(func(o *redis.Options) { o.MaxRetries = -1 })
	require.NoError(t, rdb.Set(ctx, "a", "b", 0).Err())
	addr, pid := s.Addr(), s.Pid()

	s.Kill()
	require.Error(t, rdb.Ping(ctx).Err())

	s.Restart()
	require.Equal(t, addr, s.Addr())
	require.NotEqual(t, pid, s.Pid())
	require.ErrorIs(t, rdb.Get(ctx, "a").Err(), redis.Nil)
}

func TestStopFreezesTheServerUntilCont(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, lines := Start(t), new(Lines)
	rdb := s.Client(func(o *redis.Options) {
		o.MaxRetries = -1
		o.Dialer = lines.Dial
	})
	require.NoError(t, rdb.Ping(ctx).Err()) // leaves an idle connection
	s.Stop()
	lines.Expire()
	require.ErrorIs(t, rdb.Set(ctx, "late", "1", 0).Err(), os.ErrDeadlineExceeded)
	s.Cont()
	require.Eventually(t, func() bool { return rdb.Get(ctx, "late").Val() == "1" }, Patience, time.Millisecond,
		"what was sent to a stopped server takes effect when it goes on")
}

func TestCommandCountCountsWhatScriptsCall(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := Start(t)
	rdb := s.Client(nil)
	require.NoError(t, rdb.Ping(ctx).Err())
	require.Equal(t, int64(1), s.CommandCount(), "opening a connection counts for nothing")
	require.NoError(t, rdb.Set(ctx, "a", "1", 0).Err())
	require.NoError(t, rdb.Eval(ctx, "redis.call('get', KEYS[1]) return redis.call('get', KEYS[1])", []string{"a"}).Err())
	require.Equal(t, int64(2), s.CommandCount("get"))
	require.Equal(t, int64(3), s.CommandCount("set", "get"))
	require.Equal(t, int64(5), s.CommandCount())
	require.Zero(t, s.CommandCount("mget"))
}

func TestSharedServerIsOneAndCannotBeHurt(t *testing.T) {
	t.Parallel()
	require.Equal(t, Shared(t).Addr(), Shared(t).Addr())
	for name, hurt := range map[string]func(*Server){
		"Kill": (*Server).Kill, "Restart": (*Server).Restart, "Stop": (*Server).Stop, "Cont": (*Server).Cont,
	} {
		w := watch(t, func(t testing.TB) { hurt(Shared(t)) })
		require.Contains(t, w.failed, "must not hurt the shared server", name)
	}
	require.NoError(t, Shared(t).Client(nil).Ping(t.Context()).Err())
}

func TestKeysAreUniqueAndPlain(t *testing.T) {
	t.Parallel()
	t.Run("with {odd} *characters*: é", func(t *testing.T) {
		t.Parallel()
		a, b := Key(t), Key(t)
		require.NotEqual(t, a, b)
		require.Regexp(t, `^TestKeysAreUniqueAndPlain_\w+$`, a)
	})
}

func TestEachRunsOnBothServers(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	servers := map[string]bool{}
	t.Run("group", func(t *testing.T) { // returns when its parallel subtests have ended
		Each(t, func(t *testing.T, rdb *redis.Client) {
			require.NoError(t, rdb.Set(t.Context(), Key(t), 1, time.Minute).Err())
			mu.Lock()
			defer mu.Unlock()
			servers[rdb.Options().Addr] = true
		})
	})
	want := 0
	if os.Getenv("CACHEX_SERVERS_ONLY") != "1" {
		want++ // the embedded one
	}
	if w := watch(t, func(t testing.TB) { Binary(t, "redis-server") }); w.skipped == "" {
		want++
	}
	require.Len(t, servers, want)
}
