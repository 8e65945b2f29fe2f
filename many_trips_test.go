package cachex

import (
	"bytes"
	"context"
	"maps"
	"net"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// A roadside counts the round trips of the connections of a client: how often one
// is written to that was read from since. It does so below the client, where one
// flush of a long pipeline may be several writes. A connection that listens is
// left out.
type roadside struct {
	mu    sync.Mutex
	conns []*counting // guarded by mu
}

type counting struct {
	net.Conn
	r       *roadside
	trips   int  // guarded by r.mu
	writing bool // guarded by r.mu: it has been written to and not read from since
	listens bool // guarded by r.mu
}

func (r *roadside) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &counting{Conn: conn, r: r}
	r.conns = append(r.conns, c)
	return c, nil
}

func (c *counting) Write(b []byte) (int, error) {
	c.r.mu.Lock()
	if !c.writing {
		c.trips++
	}
	c.writing = true
	c.listens = c.listens || bytes.Contains(b, []byte("subscribe"))
	c.r.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.r.mu.Lock()
		c.writing = false
		c.r.mu.Unlock()
	}
	return n, err
}

func (r *roadside) trips() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		if !c.listens {
			n += c.trips
		}
	}
	return n
}

// A trip says what a call costs.
type trip struct{ trips, get, evalsha, unlink, all int }

// travels returns a client on a real server that knows all scripts, and a
// function that requires what a call costs.
func travels(t *testing.T) (*redis.Client, func(what string, want trip, call func())) {
	t.Helper()
	r := new(roadside)
	commands := new(redistest.Counter)
	rdb := redistest.Shared(t).Client(func(o *redis.Options) {
		o.Dialer = r.dial
		o.PoolSize = 1
	})
	for _, s := range []*script.Script{script.Acquire, script.Store, script.Release, script.Write, script.Expire} {
		require.NoError(t, rdb.ScriptLoad(t.Context(), s.Source()).Err())
	}
	_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error { // which may have a connection of its own
		p.Ping(t.Context())
		p.Ping(t.Context())
		return nil
	})
	require.NoError(t, err)
	rdb.AddHook(commands)
	return rdb, func(what string, want trip, call func()) {
		t.Helper()
		before := r.trips()
		commands.Reset()
		call()
		require.Equal(t, want, trip{
			r.trips() - before, commands.Count("get"), commands.Count("evalsha"), commands.Count("unlink"),
			commands.Count() - commands.Count("subscribe"),
		}, what)
	}
}

func TestACallForAHundredKeysIsFewRoundTrips(t *testing.T) {
	t.Parallel()
	rdb, costs := travels(t)
	calls := 0
	c := newCache(t, rdb, Spec[int, string]{UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
		calls++
		return goods("up", ids...), nil
	}})
	get := func(first, n int, loads int) func() {
		return func() {
			calls = 0
			values, err := c.GetMany(t.Context(), numbers(first, n))
			require.NoError(t, err)
			require.Len(t, values, n)
			require.Equal(t, loads, calls)
		}
	}
	require.NoError(t, c.Set(t.Context(), 7, "up7"))
	costs("99 of 100 missing", trip{trips: 2, evalsha: 199, all: 199}, get(0, 100, 1))
	costs("all there, to a Loader that expects them to be missing", trip{trips: 1, evalsha: 100, all: 100}, get(0, 100, 0))
	costs("all there", trip{trips: 1, get: 100, all: 100}, get(0, 100, 0))
	costs("some missing", trip{trips: 3, get: 100, evalsha: 20, all: 120}, get(10, 100, 1))
	costs("all missing, to a Loader that expects them to be there", trip{trips: 3, get: 100, evalsha: 200, all: 300}, get(200, 100, 1))
	costs("all missing again", trip{trips: 2, evalsha: 200, all: 200}, get(300, 100, 1))
	costs("half of them there", trip{trips: 2, evalsha: 150, all: 150}, get(350, 100, 1))
	costs("all there, once half of them were", trip{trips: 1, get: 100, all: 100}, get(350, 100, 0))
	costs("LookupMany", trip{trips: 1, get: 100, all: 100}, func() {
		values, err := c.LookupMany(t.Context(), numbers(50, 100))
		require.NoError(t, err)
		require.Len(t, values, 60)
	})
	costs("SetMany", trip{trips: 1, evalsha: 100, all: 100}, func() {
		require.NoError(t, c.SetMany(t.Context(), goods("set", numbers(0, 100)...)))
	})
	costs("Expire", trip{trips: 1, evalsha: 100, all: 100}, func() {
		require.NoError(t, c.Expire(t.Context(), numbers(0, 100)...))
	})
	costs("Delete", trip{trips: 1, unlink: 100, all: 100}, func() {
		require.NoError(t, c.Delete(t.Context(), numbers(0, 100)...))
	})
	costs("no keys", trip{}, get(0, 0, 0))
}

func TestSetManyWithDownIsTwoRoundTrips(t *testing.T) {
	t.Parallel()
	rdb, costs := travels(t)
	persisted := map[int]string{}
	c := newCache(t, rdb, Spec[int, string]{
		Down: func(context.Context, int, string) error { panic("DownMany is there") },
		DownMany: func(_ context.Context, values map[int]string) error {
			maps.Copy(persisted, values)
			return nil
		},
	})
	costs("SetMany", trip{trips: 2, evalsha: 200, all: 200}, func() {
		require.NoError(t, c.SetMany(t.Context(), goods("set", numbers(0, 100)...)))
	})
	require.Equal(t, goods("set", numbers(0, 100)...), persisted)
	costs("LookupMany", trip{trips: 1, get: 100, all: 100}, func() {
		values, err := c.LookupMany(t.Context(), numbers(0, 100))
		require.NoError(t, err)
		require.Equal(t, persisted, values)
	})
}

// Redis answers nobody else while it works a pipeline off, so a long one is cut.
func TestMoreKeysThanGoIntoOnePipelineAreLoadedInOneCall(t *testing.T) {
	t.Parallel()
	const keys = 1200
	rdb, commands := counted(t, redistest.Shared(t).Client(nil))
	calls := 0
	c := newCache(t, rdb, Spec[int, string]{UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
		calls++
		return goods("up", ids...), nil
	}})
	_, err := c.GetMany(t.Context(), []int{1}) // so that the server knows the scripts
	require.NoError(t, err)
	require.NoError(t, c.Delete(t.Context(), 1))
	calls = 0
	commands.Reset()
	longest := new(longestPipeline)
	rdb.AddHook(longest)
	for range 2 {
		values, err := c.GetMany(t.Context(), numbers(0, keys))
		require.NoError(t, err)
		require.Equal(t, goods("up", numbers(0, keys)...), values)
	}
	require.Equal(t, 1, calls)
	require.Equal(t, 3*keys, commands.Count("evalsha"))
	require.Equal(t, 9, commands.RoundTrips()-commands.Count("subscribe"))
	require.Equal(t, 500, longest.n)
	values, err := c.LookupMany(t.Context(), numbers(0, keys))
	require.NoError(t, err)
	require.Len(t, values, keys)
	require.NoError(t, c.SetMany(t.Context(), goods("set", numbers(0, keys)...)))
	require.Equal(t, 500, longest.n)
	require.NoError(t, c.Delete(t.Context(), numbers(0, keys)...))
	values, err = c.LookupMany(t.Context(), numbers(0, keys))
	require.NoError(t, err)
	require.Empty(t, values)
}

// A longestPipeline notes how long the longest pipeline is. Calls do not overlap.
type longestPipeline struct {
	mu sync.Mutex
	n  int // guarded by mu
}

func (l *longestPipeline) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (l *longestPipeline) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (l *longestPipeline) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		l.mu.Lock()
		l.n = max(l.n, len(cmds))
		l.mu.Unlock()
		return next(ctx, cmds)
	}
}
