package script_test

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// unheardOf returns a script that no server has seen before.
func unheardOf(t *testing.T, src string) *script.Script {
	return script.NewHarmless("unheard", src+"\n-- "+redistest.Key(t))
}

// counted returns a client of the same server, and a counter of its commands.
func counted(t *testing.T, rdb *redis.Client) (*redis.Client, *redistest.Counter) {
	client, counter := redis.NewClient(&redis.Options{Addr: rdb.Options().Addr, ReadTimeout: redistest.Patience}), new(redistest.Counter)
	t.Cleanup(func() { _ = client.Close() })
	client.AddHook(counter)
	return client, counter
}

// A runner is Run or RunOnce.
type runner func(*script.Script, context.Context, redis.UniversalClient, string, ...any) (any, error)

var runners = map[string]runner{"Run": (*script.Script).Run, "RunOnce": (*script.Script).RunOnce}

func TestTheSourceIsSentOnceAndThenTheDigest(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		rdb, count := counted(t, rdb)
		for name, run := range runners {
			s, key := unheardOf(t, "return redis.call('INCRBY', KEYS[1], ARGV[1])"), redistest.Key(t)
			count.Reset()
			reply, err := run(s, t.Context(), rdb, key, 5)
			require.NoError(t, err)
			require.Equal(t, int64(5), reply, name)
			require.Equal(t, []int{1, 1, 2}, []int{count.Count("evalsha"), count.Count("eval"), count.Count()}, name)

			for range 3 {
				_, err = run(s, t.Context(), rdb, key, 5)
				require.NoError(t, err)
			}
			require.Equal(t, []int{4, 1, 5}, []int{count.Count("evalsha"), count.Count("eval"), count.Count()}, name)
			require.Equal(t, "20", rdb.Get(t.Context(), key).Val(), "%s ran more or less than it said", name)

			sum := sha1.Sum([]byte(s.Source()))
			known, err := rdb.ScriptExists(t.Context(), hex.EncodeToString(sum[:])).Result()
			require.NoError(t, err)
			require.Equal(t, []bool{true}, known)
		}
	})
}

// forgetful runs f on servers of the test's own, which may forget their
// scripts.
func forgetful(t *testing.T, f func(t *testing.T, rdb *redis.Client)) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		f(t, redistest.StartEmbedded(t).Client(nil))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		f(t, redistest.Start(t).Client(nil))
	})
}

func TestAServerThatForgetsItsScriptsIsToldThemAgain(t *testing.T) {
	t.Parallel()
	forgetful(t, func(t *testing.T, rdb *redis.Client) {
		rdb, count := counted(t, rdb)
		s := script.NewHarmless("add", "return redis.call('INCR', KEYS[1])")
		for i := range 3 {
			require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
			count.Reset()
			for name, run := range runners {
				reply, err := run(s, t.Context(), rdb, name)
				require.NoError(t, err)
				require.EqualValues(t, i+1, reply)
			}
			require.Equal(t, []int{2, 1, 3}, []int{count.Count("evalsha"), count.Count("eval"), count.Count()})
		}
	})
}

func TestRepliesComeAsTheyAre(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for src, want := range map[string]any{
			"return false":                          nil,
			"return nil":                            nil,
			"return redis.call('GET', KEYS[1])":     nil,
			"return 7":                              int64(7),
			"return ''":                             "",
			`return '\0\193\255'`:                   "\x00\xC1\xff",
			"return {'a', 1, {'b'}}":                []any{"a", int64(1), []any{"b"}},
			"return {}":                             []any{},
			"return {KEYS[1] == 'k', #KEYS, #ARGV}": []any{nil, int64(1), int64(3)},
			"return ARGV[1]":                        "\x00\n",
			"return {ARGV[2], ARGV[3]}":             []any{"-12", "1"},
		} {
			s, key := unheardOf(t, src), redistest.Key(t)
			for name, run := range runners {
				for range 2 { // by source and by digest
					reply, err := run(s, t.Context(), rdb, key, []byte("\x00\n"), -12, true)
					require.NoError(t, err, "%s of %s", name, src)
					require.Equal(t, want, reply, "%s of %s", name, src)
				}
			}
			c := &script.Call{Script: s, Key: key, Args: []any{[]byte("\x00\n"), -12, true}, Reply: "before", Err: io.EOF}
			require.NoError(t, script.Pipeline(t.Context(), rdb, []*script.Call{c}))
			require.NoError(t, c.Err)
			require.Equal(t, want, c.Reply, "a pipeline of %s", src)
		}
	})
}

func TestErrorsNameTheScriptAndMatch(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := unheardOf(t, "return redis.error_reply('CUSTOM bad luck')")
		broken := unheardOf(t, "this is no Lua")
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		for name, run := range runners {
			for range 2 {
				reply, err := run(s, t.Context(), rdb, redistest.Key(t))
				require.Nil(t, reply, name)
				require.EqualError(t, err, "script unheard: CUSTOM bad luck", name)
				require.True(t, redis.HasErrorPrefix(err, "CUSTOM"), name)
			}
			_, err := run(broken, t.Context(), rdb, redistest.Key(t))
			require.ErrorContains(t, err, "script unheard: ", name)
			_, err = run(s, canceled, rdb, redistest.Key(t))
			require.ErrorIs(t, err, context.Canceled, name)
			require.ErrorContains(t, err, "script unheard: ", name)
		}
	})
}

func TestAServerThatNeverKnowsAScriptIsAskedTwiceAndNotForEver(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		rdb, count := counted(t, rdb)
		s := unheardOf(t, "return redis.error_reply('NOSCRIPT never heard of it')")
		for name, run := range runners {
			count.Reset()
			_, err := run(s, t.Context(), rdb, redistest.Key(t))
			require.ErrorContains(t, err, "script unheard: NOSCRIPT", name)
			require.True(t, redis.HasErrorPrefix(err, "NOSCRIPT"), name)
			require.Equal(t, []int{1, 1}, []int{count.Count("evalsha"), count.Count("eval")}, name)
		}
		count.Reset()
		c := &script.Call{Script: s, Key: redistest.Key(t)}
		require.NoError(t, script.Pipeline(t.Context(), rdb, []*script.Call{c}))
		require.ErrorContains(t, c.Err, "script unheard: NOSCRIPT")
		require.Equal(t, []int{1, 1}, []int{count.Count("evalsha"), count.Count("eval")})
	})
}

// clients returns clients of each kind whose connections all go through a
// proxy. They are closed when the test ends.
func clients(t *testing.T, proxy string) map[string]redis.UniversalClient {
	plain := redis.NewClient(&redis.Options{Addr: proxy, PoolSize: 1, ReadTimeout: redistest.Patience})
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": proxy}, PoolSize: 1, HeartbeatFrequency: patience, ReadTimeout: redistest.Patience})
	batching := redis.NewClient(&redis.Options{Addr: proxy, PoolSize: 1, ReadTimeout: redistest.Patience})
	blocking, err := batching.AutoPipeline()
	require.NoError(t, err)
	deferring := redis.NewClient(&redis.Options{Addr: proxy, PoolSize: 1, ReadTimeout: redistest.Patience})
	async, err := deferring.AsyncAutoPipeline()
	require.NoError(t, err)
	cluster := clusterOf(proxy)
	t.Cleanup(func() {
		for _, c := range []io.Closer{plain, ring, cluster, blocking, batching, async, deferring} {
			_ = c.Close()
		}
	})
	return map[string]redis.UniversalClient{
		"client": plain, "ring": ring, "cluster": cluster, "autopipeline": blocking, "async autopipeline": async,
	}
}

// clusterOf returns a client that treats plain servers as the nodes of a
// Cluster with equal shares of the slots.
func clusterOf(addrs ...string) *redis.ClusterClient {
	return redis.NewClusterClient(&redis.ClusterOptions{
		ClusterSlots: func(context.Context) ([]redis.ClusterSlot, error) {
			const all = 16384
			slots := make([]redis.ClusterSlot, len(addrs))
			for i, addr := range addrs {
				slots[i] = redis.ClusterSlot{
					Start: i * all / len(addrs), End: (i+1)*all/len(addrs) - 1, Nodes: []redis.ClusterNode{{Addr: addr}},
				}
			}
			return slots, nil
		},
		PoolSize: 1, DialerRetries: 1, ReadTimeout: redistest.Patience,
	})
}

func TestEveryKindOfClientRunsScriptsThatAreNotKnown(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for kind, client := range clients(t, rdb.Options().Addr) {
			for name, run := range runners {
				reply, err := run(unheardOf(t, "return ARGV[1]"), t.Context(), client, redistest.Key(t), name)
				require.NoError(t, err, "%s of a %s", name, kind)
				require.Equal(t, name, reply, "%s of a %s", name, kind)
			}
			calls := make([]*script.Call, 5)
			for i := range calls {
				calls[i] = &script.Call{Script: unheardOf(t, "return ARGV[1]"), Key: redistest.Key(t), Args: []any{fmt.Sprint(i)}}
			}
			require.NoError(t, script.Pipeline(t.Context(), client, calls), kind)
			for i, c := range calls {
				require.NoError(t, c.Err, kind)
				require.Equal(t, fmt.Sprint(i), c.Reply, kind)
			}
		}
	})
}

// The reply of a script is lost with its connection after the script has run.
// Run is resent, and runs twice; RunOnce is not.
func TestOnlyRunIsSentAgainWhenTheConnectionBreaks(t *testing.T) {
	t.Parallel()
	s := script.NewHarmless("add", "return redis.call('INCR', KEYS[1])")
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		_, err := s.Run(ctx, rdb, redistest.Key(t)) // teaches the server the script
		require.NoError(t, err)
		proxy := redistest.NewProxy(t, rdb.Options().Addr)
		for kind, client := range clients(t, proxy.Addr()) {
			require.NoError(t, client.Ping(ctx).Err()) // opens the connection

			key := redistest.Key(t)
			proxy.LoseReplies(1)
			_, err := s.RunOnce(ctx, client, key)
			require.Error(t, err, kind)
			require.ErrorContains(t, err, "script add: ", kind)
			var answered redis.Error
			require.NotErrorAs(t, err, &answered, kind)
			require.Equal(t, "1", rdb.Get(ctx, key).Val(), "a %s did not send it once", kind)

			key = redistest.Key(t)
			require.NoError(t, client.Ping(ctx).Err())
			proxy.LoseReplies(1)
			reply, err := s.Run(ctx, client, key)
			require.NoError(t, err, kind)
			require.Equal(t, int64(2), reply, kind)
		}
	})
}

// If the digest of a script was refused, the script did not run. So RunOnce may
// send its source; it sends that once, too.
func TestRunOnceSendsASourceAfterItsDigestWasRefused(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		rdb, count := counted(t, rdb)
		faults := new(redistest.Faults)
		rdb.AddHook(faults)
		faults.Add(redistest.Fault{Match: redistest.Named("eval"), Executed: true})
		s, key := unheardOf(t, "return redis.call('INCR', KEYS[1])"), redistest.Key(t)
		_, err := s.RunOnce(t.Context(), rdb, key)
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, []int{1, 1}, []int{count.Count("evalsha"), count.Count("eval")})
		require.Equal(t, "1", rdb.Get(t.Context(), key).Val())
	})
}

// A refusal is a hook that lets no command pass. Like hooks of tracers and
// breakers, it only returns an error.
type refusal struct{ err error }

func (r refusal) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r refusal) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(context.Context, redis.Cmder) error { return r.err }
}

func (r refusal) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(context.Context, []redis.Cmder) error { return r.err }
}

func TestWhatAHookRefusesIsNotTakenForAnAnswer(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for kind, client := range clients(t, rdb.Options().Addr) {
			client.AddHook(refusal{io.ErrClosedPipe})
			s := unheardOf(t, "return 1")
			for name, run := range runners {
				_, err := run(s, t.Context(), client, redistest.Key(t))
				require.ErrorIs(t, err, io.ErrClosedPipe, "%s of a %s", name, kind)
			}
			calls := []*script.Call{{Script: s, Key: redistest.Key(t)}, {Script: s, Key: redistest.Key(t)}}
			require.ErrorIs(t, script.Pipeline(t.Context(), client, calls), io.ErrClosedPipe, kind)
			for _, c := range calls {
				require.ErrorIs(t, c.Err, io.ErrClosedPipe, kind)
			}
		}
	})
}
