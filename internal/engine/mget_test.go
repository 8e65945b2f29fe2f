package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// manyOf returns a Loader on rdb, and keys of which all but the last have
// values.
func manyOf(t *testing.T, rdb redis.UniversalClient) (*Loader[string], []string) {
	t.Helper()
	l, err := newTyped(rdb, typedOptions[string]{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close(context.WithoutCancel(t.Context())) })
	base := redistest.Key(t)
	keys := []string{base + "a", base + "b", base + "c"}
	for _, key := range keys[:2] {
		_, err := l.Get(t.Context(), key, func(context.Context) (string, Life, error) {
			return "value of " + key, Life{Fresh: time.Minute, Keep: time.Minute}, nil
		})
		require.NoError(t, err)
	}
	return l, keys
}

func requireMany(t *testing.T, l *Loader[string], keys []string) {
	t.Helper()
	answers := l.LookupMany(t.Context(), keys)
	for i, key := range keys[:2] {
		require.NoError(t, answers[i].Err)
		require.Equal(t, "value of "+key, answers[i].Value)
	}
	require.NoError(t, answers[2].Err)
	require.Zero(t, answers[2].Value)
}

func TestGetMany_KeysOfOneServerAreReadByOneCommand(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		l, keys := manyOf(t, rdb)
		counter := new(redistest.Counter)
		rdb.AddHook(counter)
		requireMany(t, l, keys)
		require.Equal(t, 1, counter.Count("mget"))
		require.Zero(t, counter.Count("get"))
		require.Equal(t, 1, counter.RoundTrips())
	})
}

// A server refuses an MGET because of one key, for example one to which the
// user has no right.
func TestGetMany_ARefusedMGETFallsBackToGETsForAWhile(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		l, keys := manyOf(t, rdb)
		faults, counter := new(redistest.Faults), new(redistest.Counter)
		rdb.AddHook(counter)
		rdb.AddHook(faults)
		faults.Add(redistest.Fault{Match: redistest.Named("mget"), Err: refusal("NOPERM this user has no permissions to access one of the keys")})
		requireMany(t, l, keys)
		require.Equal(t, 1, counter.Count("mget"))
		require.Equal(t, 3, counter.Count("get"))
		requireMany(t, l, keys)
		require.Equal(t, 1, counter.Count("mget"), "not tried again yet")
		require.Equal(t, 6, counter.Count("get"))
		l.engine.gather.Apart(time.Now()) // the suspension is over
		requireMany(t, l, keys)
		require.Equal(t, 2, counter.Count("mget"))
		require.Zero(t, l.Stats().RedisFailures)
	})
}

// refusal is an error reply of Redis.
type refusal string

func (e refusal) Error() string { return string(e) }
func (refusal) RedisError()     {}

func TestGetMany_AServerThatRefusesEveryReadKeepsMGET(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		l, keys := manyOf(t, rdb)
		faults := new(redistest.Faults)
		rdb.AddHook(faults)
		loading := refusal("LOADING Redis is loading the dataset in memory")
		faults.Add(redistest.Fault{Match: redistest.Named("mget", "get"), Times: redistest.Always, Err: loading})
		for _, a := range l.LookupMany(t.Context(), keys) {
			require.ErrorIs(t, a.Err, loading)
		}
		require.True(t, l.engine.gather.Together())
	})
}

func TestGetMany_SeesARefusalOnTheWire(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	rdb := server.Client(nil)
	l, keys := manyOf(t, rdb)
	user := redistest.Key(t)
	require.NoError(t, rdb.Do(t.Context(), "ACL", "SETUSER", user, "on", "nopass", "~*", "+@all", "-mget").Err())
	t.Cleanup(func() { _ = rdb.Do(context.Background(), "ACL", "DELUSER", user).Err() })
	limited, err := newTyped(server.Client(func(o *redis.Options) { o.Username, o.Password = user, "any" }), typedOptions[string]{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = limited.Close(context.WithoutCancel(t.Context())) })
	requireMany(t, limited, keys)
	require.False(t, limited.engine.gather.Together())
	require.True(t, l.engine.gather.Together())
}

// The client does not repeat a command whose reply it has begun to write into a
// variable.
func TestGetMany_ReadsAgainAfterALostConnection(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	proxy := redistest.NewProxy(t, server.Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr(), ReadTimeout: patience})
	t.Cleanup(func() { _ = rdb.Close() })
	l, keys := manyOf(t, rdb)
	requireMany(t, l, keys)
	proxy.LoseReplies(1)
	requireMany(t, l, keys)
	proxy.Cut()
	requireMany(t, l, keys)
	require.True(t, l.engine.gather.Together(), "no server has refused an MGET")
}

func TestGetMany_ContextWithoutEndSendsOnTheCaller(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		l, keys := manyOf(t, rdb)
		gone := errors.New("left by panic")
		rdb.AddHook(panics{gone})
		for _, a := range l.LookupMany(context.Background(), keys) {
			require.ErrorIs(t, a.Err, gone)
			p, ok := errors.AsType[*PanicError](a.Err)
			require.True(t, ok)
			require.Contains(t, string(p.Stack), "TestGetMany_ContextWithoutEnd", "the goroutine of the caller")
		}
	})
}

type panics struct{ with error }

func (panics) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (panics) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (p panics) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(context.Context, []redis.Cmder) error { panic(p.with) }
}
