package cachex

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// A trip says what a call costs.
type trip struct{ trips, mget, evalsha, set, unlink, all int }

// travels returns one more client of the server of plain, which knows all scripts
// then, and a function that requires what a call costs.
func travels(t *testing.T, plain *redis.Client) (*redis.Client, func(what string, want trip, call func())) {
	t.Helper()
	r := new(redistest.Roadside)
	commands := new(redistest.Counter)
	rdb := r.Client(t, plain)
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
		before := r.Trips()
		commands.Reset()
		call()
		require.Equal(t, want, trip{
			r.Trips() - before, commands.Count("mget"), commands.Count("evalsha"), commands.Count("set"), commands.Count("unlink"),
			commands.Count() - commands.Count("subscribe"),
		}, what)
	}
}

func TestGetMany_HundredKeysAreFewRoundTrips(t *testing.T) {
	t.Parallel()
	rdb, costs := travels(t, redistest.Shared(t).Client(nil))
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
	costs("all there", trip{trips: 1, mget: 1, all: 1}, get(0, 100, 0))
	costs("some missing", trip{trips: 3, mget: 1, evalsha: 20, all: 21}, get(10, 100, 1))
	costs("all missing, to a Loader that expects them to be there", trip{trips: 3, mget: 1, evalsha: 200, all: 201}, get(200, 100, 1))
	costs("all missing again", trip{trips: 2, evalsha: 200, all: 200}, get(300, 100, 1))
	costs("half of them there", trip{trips: 2, evalsha: 150, all: 150}, get(350, 100, 1))
	costs("all there, once half of them were", trip{trips: 1, mget: 1, all: 1}, get(350, 100, 0))
	costs("LookupMany", trip{trips: 1, mget: 1, all: 1}, func() {
		values, err := c.LookupMany(t.Context(), numbers(50, 100))
		require.NoError(t, err)
		require.Len(t, values, 60)
	})
	costs("SetMany", trip{trips: 1, set: 100, all: 100}, func() {
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

// Loads of one key each take their leases together, and are stored together where
// they take about as long: in a bubble, since those who have loaded wait for the others
// no longer than 50 ms, and a machine that stands still for as long parts them.
func TestGetMany_WithoutUpManyIsFewRoundTrips(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, plain *redis.Client) {
		rdb, costs := travels(t, plain)
		c := newCache(t, rdb, Spec[int, string]{MaxLoads: 8, Up: func(_ context.Context, id int) (string, error) {
			time.Sleep(50 * time.Millisecond)
			return goods("up", id)[id], nil
		}})
		get := func(first, n int) func() {
			return func() {
				values, err := c.GetMany(t.Context(), numbers(first, n))
				require.NoError(t, err)
				require.Equal(t, goods("up", numbers(first, n)...), values)
			}
		}
		costs("8 missing", trip{trips: 3, mget: 1, evalsha: 16, all: 17}, get(0, 8))
		costs("all there", trip{trips: 1, mget: 1, all: 1}, get(0, 8))
		costs("one missing", trip{trips: 3, mget: 1, evalsha: 2, all: 3}, get(0, 9))

		// More keys than places: how many of those that come later go along is a matter
		// of who is how fast. All are right.
		get(100, 24)()
	})
}

func TestSetMany_WithDownIsTwoRoundTrips(t *testing.T) {
	t.Parallel()
	rdb, costs := travels(t, redistest.Shared(t).Client(nil))
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
	costs("LookupMany", trip{trips: 1, mget: 1, all: 1}, func() {
		values, err := c.LookupMany(t.Context(), numbers(0, 100))
		require.NoError(t, err)
		require.Equal(t, persisted, values)
	})
}

// Redis answers nobody else while it works a pipeline off, so a long one is cut.
func TestGetMany_MoreKeysThanOnePipelineAreLoadedInOneCall(t *testing.T) {
	t.Parallel()
	const keys = 1200
	rdb, commands := counted(t, redistest.Shared(t).Client(nil))
	calls := 0
	c := newCache(t, rdb, Spec[int, string]{MaxKeys: keys, UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
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
