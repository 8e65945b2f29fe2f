package cachextest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/cachextest"
	"github.com/cachex-go/cachex/internal/redistest"
)

// patience bounds every wait in real time.
var patience = redistest.Patience

func TestServer_ShowsCommandsAndRoundTrips(t *testing.T) {
	t.Parallel()
	server := cachextest.Start(t)
	rdb, ctx := server.Client(), t.Context()
	require.NoError(t, rdb.Set(ctx, "a", "1", 0).Err())
	_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range 3000 { // more than one buffer of the client
			p.Get(ctx, fmt.Sprint(i))
		}
		return nil
	})
	require.ErrorIs(t, err, redis.Nil)
	require.Equal(t, 2, server.RoundTrips())
	require.Len(t, server.Commands(), 3001)
	require.Equal(t, [][]string{{"SET", "a", "1"}}, server.CommandsOf("set"))
	require.Len(t, server.CommandsOf("GET"), 3000)
	server.Reset()
	require.Zero(t, server.RoundTrips())
	require.Empty(t, server.Commands())
	require.NoError(t, rdb.Get(ctx, "a").Err())
	require.Equal(t, 1, server.RoundTrips())
}

func TestServer_Fails(t *testing.T) {
	t.Parallel()
	server := cachextest.Start(t)
	rdb, ctx := server.Client(), t.Context()
	server.Fail(errors.New("OOM command not allowed"))
	require.EqualError(t, rdb.Set(ctx, "a", "1", 0).Err(), "OOM command not allowed")
	server.Fail(nil)
	require.ErrorIs(t, rdb.Get(ctx, "a").Err(), redis.Nil, "it was not executed")
}

func TestServer_DelaysReplies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := cachextest.Start(t)
		rdb, ctx := server.ClientWith(func(o *redis.Options) { o.PoolSize, o.MaxRetries, o.ReadTimeout = 1, -1, time.Second }), t.Context()
		pings := func() error {
			_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
				for range 100 {
					p.Ping(ctx)
				}
				return nil
			})
			return err
		}
		require.NoError(t, pings()) // on a connection for pipelines
		server.Delay(40 * time.Millisecond)
		began := time.Now()
		require.NoError(t, pings())
		require.Equal(t, 40*time.Millisecond, time.Since(began), "a pipeline is one round trip")
		server.Delay(time.Minute)
		require.ErrorContains(t, rdb.Ping(ctx).Err(), "timeout")
		server.Delay(0)
		began = time.Now()
		require.NoError(t, rdb.Ping(ctx).Err())
		require.Zero(t, time.Since(began))
	})
}

func TestServer_HangsUntilItResumes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := cachextest.Start(t)
		rdb, ctx := server.ClientWith(func(o *redis.Options) { o.MaxRetries, o.ReadTimeout = -1, time.Second }), t.Context()
		require.NoError(t, rdb.Ping(ctx).Err())
		resume := server.Hang()
		require.ErrorContains(t, rdb.Incr(ctx, "n").Err(), "timeout")
		resume()
		resume()
		synctest.Wait()
		require.Equal(t, "1", rdb.Get(ctx, "n").Val(), "it was executed late")
		server.Hang() // Close ends it
	})
}

func TestServer_StopsAndStarts(t *testing.T) {
	t.Parallel()
	server := cachextest.Start(t)
	rdb, ctx := server.ClientWith(func(o *redis.Options) { o.MaxRetries, o.DialerRetries = -1, 1 }), t.Context()
	require.NoError(t, rdb.Set(ctx, "a", "1", 0).Err())
	start := server.Stop()
	require.Error(t, rdb.Get(ctx, "a").Err())
	require.Error(t, rdb.Get(ctx, "a").Err())
	start()
	require.Eventually(t, func() bool { return rdb.Get(ctx, "a").Val() == "1" }, patience, time.Millisecond)
}

func TestServer_CutsAndRestarts(t *testing.T) {
	t.Parallel()
	server := cachextest.Start(t)
	rdb, ctx := server.Client(), t.Context()
	require.NoError(t, rdb.Set(ctx, "a", "1", 0).Err())
	sub := rdb.Subscribe(ctx, "c")
	defer func() { _ = sub.Close() }()
	_, err := sub.Receive(ctx)
	require.NoError(t, err)
	server.Cut()
	_, err = sub.Receive(ctx)
	require.Error(t, err)
	require.Equal(t, "1", rdb.Get(ctx, "a").Val(), "the client dials again, and the data stay")

	script := redis.NewScript("return 1")
	require.NoError(t, script.Load(ctx, rdb).Err())
	server.Restart()
	require.ErrorIs(t, rdb.Get(ctx, "a").Err(), redis.Nil)
	require.ErrorContains(t, rdb.EvalSha(ctx, script.Hash(), nil).Err(), "NOSCRIPT")
}

func TestServer_Evicts(t *testing.T) {
	t.Parallel()
	server := cachextest.Start(t)
	rdb, ctx := server.Client(), t.Context()
	require.NoError(t, rdb.Set(ctx, "a", "1", 0).Err())
	require.True(t, server.Evict("a"))
	require.False(t, server.Evict("a"))
	require.ErrorIs(t, rdb.Get(ctx, "a").Err(), redis.Nil)
}

func TestServer_HoldsOneCommand(t *testing.T) {
	t.Parallel()
	server := cachextest.Start(t)
	rdb, other, ctx := server.Client(), server.Client(), t.Context()
	held := server.Hold("get")
	got := make(chan string, 1)
	go func() { got <- rdb.Get(ctx, "a").Val() }()
	<-held.Arrived()
	require.NoError(t, other.Set(ctx, "a", "before", 0).Err())
	require.Equal(t, "before", other.Get(ctx, "a").Val(), "one is held, and no other")
	held.Release()
	held.Release()
	require.Equal(t, "before", <-got)
	server.Hold("get") // which no command meets
	stuck := server.Hold("set")
	go func() { _ = other.Set(context.Background(), "a", "late", 0).Err() }()
	<-stuck.Arrived() // Close releases it
}

func TestAdvance_PanicsOutsideOfABubble(t *testing.T) {
	t.Parallel()
	server := cachextest.Start(t)
	require.PanicsWithValue(t, "cachex: cachextest: Advance needs synctest.Test around the test: "+
		"outside of a bubble the server's clock could move, and the program's could not", func() { server.Advance(time.Second) })
}

func TestOpen_IsForProgramsThatAreNoTests(t *testing.T) {
	t.Parallel()
	server, err := cachextest.Open()
	require.NoError(t, err)
	rdb := server.Client()
	require.NoError(t, rdb.Ping(t.Context()).Err())
	server.Close()
	server.Close()
	require.ErrorIs(t, rdb.Ping(t.Context()).Err(), redis.ErrClosed)
}

// judge is a testing.TB that records why a test fails instead of ending it.
type judge struct {
	testing.TB
	fatal string
}

func (j *judge) Helper() {}
func (j *judge) Fatalf(format string, args ...any) {
	j.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// verdict returns the reason why f fails the test, or "" if it does not.
func verdict(t *testing.T, f func(testing.TB)) string {
	j := &judge{TB: t}
	var wg sync.WaitGroup
	wg.Go(func() { f(j) })
	wg.Wait()
	return j.fatal
}

func TestRequire_FailsWithTheReason(t *testing.T) {
	t.Parallel()
	server, source := cachextest.Start(t), cachextest.NewSource[int64, Profile]()
	profiles := NewProfiles(server.Client(), source.Up)
	defer done(t, profiles)
	source.Put(7, Profile{"Ada"})
	equal(t, "Ada", name(t, profiles))

	require.Empty(t, verdict(t, func(t testing.TB) { cachextest.RequireLoads(t, source, 7, 1) }))
	require.Equal(t, "cachextest: key 7 was loaded 1 times, want 2", verdict(t, func(t testing.TB) { cachextest.RequireLoads(t, source, 7, 2) }))
	require.Empty(t, verdict(t, func(t testing.TB) { equalTo(t, "Ada", cachextest.RequireCached(t, profiles, 7).Name) }))
	require.Equal(t, "cachextest: key 8 is not cached", verdict(t, func(t testing.TB) { cachextest.RequireCached(t, profiles, 8) }))
	require.Empty(t, verdict(t, func(t testing.TB) { cachextest.RequireAbsent(t, profiles, 8) }))
	require.Equal(t, "cachextest: key 7 is cached", verdict(t, func(t testing.TB) { cachextest.RequireAbsent(t, profiles, 7) }))
	twice := func() { name(t, profiles); name(t, profiles) }
	require.Empty(t, verdict(t, func(t testing.TB) { cachextest.RequireRoundTrips(t, server, 2, twice) }))
	require.Equal(t, "cachextest: 2 round trips, want 1:\n\tGET profiles:7\n\tGET profiles:7",
		verdict(t, func(t testing.TB) { cachextest.RequireRoundTrips(t, server, 1, twice) }))
	server.Fail(errors.New("ERR no"))
	require.Contains(t, verdict(t, func(t testing.TB) { cachextest.RequireCached(t, profiles, 7) }), "lookup of key 7: cachex: lookup profiles:7: ERR no")
	require.Contains(t, verdict(t, func(t testing.TB) { cachextest.RequireAbsent(t, profiles, 7) }), "ERR no")
}

func equalTo(t testing.TB, want, got string) {
	if want != got {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestSource_CountsFailsAndBlocks(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	source := cachextest.NewSource[string, int]()
	_, err := source.Up(ctx, "a")
	require.ErrorContains(t, err, "not found")
	require.NoError(t, source.DownMany(ctx, map[string]int{"a": 1, "b": 2}))
	found, err := source.UpMany(ctx, []string{"a", "b", "c"})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"a": 1, "b": 2}, found)
	require.Equal(t, []int{2, 1, 1}, []int{source.Loads("a"), source.Loads("b"), source.Loads("c")})
	require.Equal(t, []int{1, 1, 0}, []int{source.Writes("a"), source.Writes("b"), source.Writes("c")})

	broken := errors.New("broken")
	source.Fail(broken)
	require.ErrorIs(t, source.Down(ctx, "a", 9), broken)
	_, err = source.Up(ctx, "a")
	require.ErrorIs(t, err, broken)
	source.Fail(nil)
	v, ok := source.Value("a")
	require.True(t, ok)
	require.Equal(t, 1, v)
	source.Remove("a")
	_, ok = source.Value("a")
	require.False(t, ok)

	release := source.Block()
	leaving, leave := context.WithCancel(ctx)
	leave()
	_, err = source.Up(leaving, "b")
	require.ErrorIs(t, err, context.Canceled)
	got := make(chan int, 1)
	go func() { v, _ := source.Up(ctx, "b"); got <- v }()
	require.NoError(t, source.AwaitBlocked(ctx, 1))
	source.Put("b", 3)
	require.ErrorContains(t, source.AwaitBlocked(leaving, 2), "1 of 2 loads are blocked")
	release()
	release()
	require.Equal(t, 2, <-got, "the load had read before")
	v, err = source.Up(ctx, "b")
	require.NoError(t, err)
	require.Equal(t, 3, v)
}

func TestFleet_ClosesWhatHasAClose(t *testing.T) {
	t.Parallel()
	var closed []string
	t.Run("", func(t *testing.T) {
		server, n := cachextest.Start(t), 0
		fleet := cachextest.Fleet(t, server, 3, func(rdb redis.UniversalClient) closer {
			n++
			return closer(func() error {
				closed = append(closed, strings.Repeat("i", n))
				return rdb.Ping(context.Background()).Err()
			})
		})
		require.Len(t, fleet, 3)
		require.Len(t, cachextest.Fleet(t, server, 2, func(redis.UniversalClient) int { return 1 }), 2)
	})
	require.Len(t, closed, 3)
}

type closer func() error

func (c closer) Close(context.Context) error { return c() }
