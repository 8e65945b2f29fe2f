package script_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

const addition = "return redis.call('INCRBY', KEYS[1], ARGV[1])"

// pipeline returns calls that add 1, 2, 3 and so on to keys of their own. For
// the letter k, the server knows the script of the call; for u, it does not.
// For w, it knows the script, but the key has the wrong type.
func pipeline(t *testing.T, rdb *redis.Client, letters string) []*script.Call {
	t.Helper()
	known := unheardOf(t, addition)
	_, err := known.Run(t.Context(), rdb, redistest.Key(t), 0)
	require.NoError(t, err)
	calls := make([]*script.Call, len(letters))
	for i, letter := range letters {
		c := &script.Call{Script: known, Key: redistest.Key(t), Args: []any{i + 1}, Reply: "before", Err: io.ErrUnexpectedEOF}
		switch letter {
		case 'u':
			c.Script = unheardOf(t, addition)
		case 'w':
			require.NoError(t, rdb.RPush(t.Context(), c.Key, "a").Err())
		}
		calls[i] = c
	}
	return calls
}

// requireRanOnce fails unless every call got its own reply and ran once.
func requireRanOnce(t *testing.T, rdb *redis.Client, letters string, calls []*script.Call) {
	t.Helper()
	for i, c := range calls {
		if letters[i] == 'w' {
			require.ErrorContains(t, c.Err, "script unheard: ", "%s, call %d", letters, i)
			require.ErrorContains(t, c.Err, "WRONGTYPE", "%s, call %d", letters, i)
			require.Nil(t, c.Reply, "%s, call %d", letters, i)
			continue
		}
		require.NoError(t, c.Err, "%s, call %d", letters, i)
		require.Equal(t, int64(i+1), c.Reply, "%s, call %d", letters, i)
		require.Equal(t, fmt.Sprint(i+1), rdb.Get(t.Context(), c.Key).Val(), "%s, call %d did not run once", letters, i)
	}
}

func TestAPipelineSendsAgainOnlyWhatWasNotKnown(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		rdb, count := counted(t, rdb)
		for letters, want := range map[string]struct{ evalsha, eval, trips int }{
			"":        {0, 0, 0},
			"k":       {1, 0, 1},
			"kkkkk":   {5, 0, 1},
			"u":       {1, 1, 2},
			"uuu":     {3, 3, 2},
			"kukku":   {5, 2, 2},
			"ukuk":    {4, 2, 2},
			"w":       {1, 0, 1},
			"wk":      {2, 0, 1},
			"kwk":     {3, 0, 1},
			"wukwukw": {7, 2, 2},
			"uw":      {2, 1, 2},
		} {
			calls := pipeline(t, rdb, letters)
			count.Reset()
			require.NoError(t, script.Pipeline(t.Context(), rdb, calls), letters)
			require.Equal(t, want, struct{ evalsha, eval, trips int }{
				count.Count("evalsha"), count.Count("eval"), count.RoundTrips(),
			}, letters)
			require.Equal(t, want.evalsha+want.eval, count.Count(), "%s: SCRIPT LOAD or the like was sent", letters)
			requireRanOnce(t, rdb, letters, calls)
		}
	})
}

func TestAPipelineTellsAServerThatForgotItsScripts(t *testing.T) {
	t.Parallel()
	forgetful(t, func(t *testing.T, rdb *redis.Client) {
		calls := pipeline(t, rdb, "kkkwkk")
		require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
		require.NoError(t, script.Pipeline(t.Context(), rdb, calls))
		requireRanOnce(t, rdb, "kkkwkk", calls)
	})
}

func TestAPipelineKeepsTheOrderOfItsCallsOnOneKey(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s, key := unheardOf(t, "return redis.call('APPEND', KEYS[1], ARGV[1])"), redistest.Key(t)
		for range 2 {
			var calls []*script.Call
			for i := range 10 {
				calls = append(calls, &script.Call{Script: s, Key: key, Args: []any{i}})
			}
			require.NoError(t, script.Pipeline(t.Context(), rdb, calls))
		}
		require.Equal(t, "01234567890123456789", rdb.Get(t.Context(), key).Val())
	})
}

func TestAPipelineSaysThatARoundTripFailed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		letters string
		fault   redistest.Fault
		failed  string // the calls that have no reply
		of      int    // how many calls the failed round trip had
	}{
		{"kkk", redistest.Fault{Match: redistest.Named("evalsha")}, "xxx", 3},
		{"kkk", redistest.Fault{Match: redistest.Named("evalsha"), Skip: 1}, ".xx", 3},
		{"ukk", redistest.Fault{Match: redistest.Named("evalsha"), Skip: 1}, ".xx", 3}, // after NOSCRIPT
		{"kuk", redistest.Fault{Match: redistest.Named("evalsha"), Skip: 2}, "..x", 3},
		{"wkk", redistest.Fault{Match: redistest.Named("evalsha"), Skip: 1}, ".xx", 3}, // after WRONGTYPE
		{"kuku", redistest.Fault{Match: redistest.Named("eval")}, ".x.x", 2},           // the second trip
		{"kuku", redistest.Fault{Match: redistest.Named("eval"), Skip: 1}, "...x", 2},
		{"uwk", redistest.Fault{Match: redistest.Named("eval")}, "x..", 1},
	} {
		redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
			calls := pipeline(t, rdb, test.letters)
			rdb, count := counted(t, rdb)
			faults := new(redistest.Faults)
			faults.Add(test.fault)
			rdb.AddHook(faults)
			err := script.Pipeline(t.Context(), rdb, calls)
			require.ErrorIs(t, err, io.EOF, test.letters)
			require.ErrorContains(t, err, fmt.Sprintf("pipeline of %d scripts: ", test.of), test.letters)
			require.LessOrEqual(t, count.RoundTrips(), 2, test.letters)
			for i, c := range calls {
				switch {
				case test.failed[i] == 'x':
					require.ErrorIs(t, c.Err, io.EOF, "%s, call %d", test.letters, i)
					require.ErrorContains(t, c.Err, "script unheard: ", "%s, call %d", test.letters, i)
					require.Nil(t, c.Reply, "%s, call %d", test.letters, i)
				case test.letters[i] == 'w':
					require.ErrorContains(t, c.Err, "WRONGTYPE", "%s, call %d", test.letters, i)
				default:
					require.NoError(t, c.Err, "%s, call %d", test.letters, i)
					require.Equal(t, int64(i+1), c.Reply, "%s, call %d", test.letters, i)
				}
			}
		})
	}
}

func TestAPipelineHeedsItsContext(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		calls := pipeline(t, rdb, "ku")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, script.Pipeline(ctx, rdb, calls), context.Canceled)
		for _, c := range calls {
			require.ErrorIs(t, c.Err, context.Canceled)
			require.Empty(t, rdb.Get(t.Context(), c.Key).Val())
		}
	})
}

// If a connection breaks, the client may resend a pipeline as a whole.
func TestAPipelineIsSentAgainWhenItsConnectionBreaks(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		calls := pipeline(t, rdb, "kkk")
		proxy := redistest.NewProxy(t, rdb.Options().Addr)
		client := redis.NewClient(&redis.Options{Addr: proxy.Addr(), PipelinePoolSize: 1, ReadTimeout: redistest.Patience})
		defer func() { _ = client.Close() }()
		// This opens the connection: pipelines have connections of their own.
		require.NoError(t, script.Pipeline(t.Context(), client, pipeline(t, rdb, "k")))
		proxy.LoseReplies(1)
		require.NoError(t, script.Pipeline(t.Context(), client, calls))
		for i, c := range calls {
			require.NoError(t, c.Err)
			n := int64(i + 1)
			if strings.HasSuffix(t.Name(), "/embedded") {
				// This server runs a pipeline as it reads it, and may be cut
				// off in between.
				require.Contains(t, []int64{n, 2 * n}, c.Reply)
				continue
			}
			require.Equal(t, 2*n, c.Reply)
		}
		require.Equal(t, int64(2), calls[0].Reply, "whose reply was lost")
	})
}

// If a pipeline has a call that is sent once, the client resends none of its
// calls. The calls that are harmless when late are resent without it.
func TestPipeline_SendsAgainOnlyCallsThatAreHarmlessWhenLate(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		proxy := redistest.NewProxy(t, rdb.Options().Addr)
		for kind, client := range clients(t, proxy.Addr()) {
			require.NoError(t, script.Pipeline(t.Context(), client, pipeline(t, rdb, "k"))) // opens the connection
			calls := pipeline(t, rdb, "kkk")
			calls[1].Once = true
			proxy.LoseReplies(1)
			require.ErrorIs(t, script.Pipeline(t.Context(), client, calls), script.ErrOutcomeUnknown, kind)
			require.ErrorIs(t, calls[1].Err, script.ErrOutcomeUnknown, kind)
			// The connection may break before the server reads all.
			require.Contains(t, []string{"", "2"}, rdb.Get(t.Context(), calls[1].Key).Val(), "a %s sent it again", kind)
			for i, n := range map[int]int{0: 1, 2: 3} {
				require.NoError(t, calls[i].Err, kind)
				require.Contains(t, []any{int64(n), int64(2 * n)}, calls[i].Reply, kind)
				// The server may read the rest of the copy that was cut after
				// the other copy.
				there, err := rdb.Get(t.Context(), calls[i].Key).Int64()
				require.NoError(t, err)
				require.Contains(t, []int64{int64(n), int64(2 * n)}, there, kind)
				require.GreaterOrEqual(t, there, calls[i].Reply, kind)
			}
			require.Equal(t, "2", rdb.Get(t.Context(), calls[0].Key).Val(), "its reply was lost, and it was sent again by a %s", kind)

			// If the digest of a call was refused, its source is sent, once.
			calls = pipeline(t, rdb, "uku")
			calls[0].Once, calls[1].Once, calls[2].Once = true, true, true
			require.NoError(t, script.Pipeline(t.Context(), client, calls), kind)
			requireRanOnce(t, rdb, "uku", calls)
		}
	})
}

func TestACallRunsByItselfAsItsScriptDoes(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		proxy := redistest.NewProxy(t, rdb.Options().Addr)
		for kind, client := range clients(t, proxy.Addr()) {
			for _, c := range pipeline(t, rdb, "ku") {
				require.NoError(t, c.Run(t.Context(), client), kind)
				require.NoError(t, c.Err, kind)
				require.Equal(t, fmt.Sprint(c.Reply), rdb.Get(t.Context(), c.Key).Val(), kind)
			}
			bad := pipeline(t, rdb, "w")[0]
			require.ErrorContains(t, bad.Run(t.Context(), client), "WRONGTYPE", kind)
			require.ErrorContains(t, bad.Err, "WRONGTYPE", kind)
			require.Nil(t, bad.Reply, kind)

			for once, ran := range map[bool]string{true: "1", false: "2"} {
				c := pipeline(t, rdb, "k")[0]
				c.Once = once
				require.NoError(t, client.Ping(t.Context()).Err())
				proxy.LoseReplies(1)
				err := c.Run(t.Context(), client)
				require.Equal(t, once, err != nil, kind)
				require.Equal(t, c.Err, err, kind)
				require.Equal(t, ran, rdb.Get(t.Context(), c.Key).Val(), kind)
			}
		}
	})
}

// A Cluster and a Ring send a pipeline to each of their nodes. Here one of two
// is gone: its calls fail, Pipeline returns an error, and the other calls are
// answered.
func TestAPipelineToANodeThatIsGoneLeavesTheOthersTheirReplies(t *testing.T) {
	t.Parallel()
	const letters = "ukukukukukukukuk"
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		addr := rdb.Options().Addr
		gone := redistest.NewProxy(t, addr)
		gone.Refuse()
		ring := redis.NewRing(&redis.RingOptions{
			Addrs:      map[string]string{"a": addr, "b": gone.Addr()},
			MaxRetries: -1, DialerRetries: 1, HeartbeatFrequency: patience, ReadTimeout: patience,
		})
		cluster := clusterOf(addr, gone.Addr())
		defer func() { _ = ring.Close(); _ = cluster.Close() }()
		for kind, client := range map[string]redis.UniversalClient{"ring": ring, "cluster": cluster} {
			calls := pipeline(t, rdb, letters)
			err := script.Pipeline(t.Context(), client, calls)
			failed := 0
			for i, c := range calls {
				if c.Err != nil {
					require.Nil(t, c.Reply)
					failed++
					continue
				}
				require.Equal(t, int64(i+1), c.Reply)
			}
			require.Positive(t, failed, "no key of the node that is gone")
			require.Less(t, failed, len(calls), "no key of the node that is there")
			require.Error(t, err, kind)
			var answered redis.Error
			require.NotErrorAs(t, err, &answered, kind)
		}
	})
}
