package redistest

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// journal records, through a Gate, the commands that pass.
type journal struct {
	mu      sync.Mutex
	entries []string
}

func (j *journal) gate() *Gate {
	note := func(prefix string) func(context.Context, redis.Cmder) {
		return func(_ context.Context, cmd redis.Cmder) {
			j.mu.Lock()
			defer j.mu.Unlock()
			j.entries = append(j.entries, prefix+cmd.Name())
		}
	}
	return &Gate{Before: note("+"), After: note("-")}
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.entries, " ")
}

func TestGateSeesEveryCommandBeforeAndAfterItIsSent(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, key := t.Context(), Key(t)
		var j journal
		rdb.AddHook(j.gate())
		rdb.Set(ctx, key, 1, 0) // also opens the connection, which is not recorded
		_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Incr(ctx, key)
			p.Get(ctx, key)
			return nil
		})
		require.NoError(t, err)
		_, err = rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Del(ctx, key)
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, "+set -set +incr -incr +get -get +multi +del +exec -multi -del -exec", j.String())
	})
}

func TestGate_AfterSeesTheError(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, rdb *redis.Client) {
		var seen []error
		rdb.AddHook(&Gate{After: func(_ context.Context, cmd redis.Cmder) { seen = append(seen, cmd.Err()) }})
		err := rdb.EvalSha(t.Context(), strings.Repeat("0", 40), []string{Key(t)}).Err()
		require.ErrorContains(t, err, "NOSCRIPT")
		require.Equal(t, []error{err}, seen)
	})
}

func TestGateHoldsACommandOfAPipelineBackWhileAnotherClientWrites(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, key := t.Context(), Key(t)
		other := redis.NewClient(rdb.Options())
		t.Cleanup(func() { _ = other.Close() })
		rdb.AddHook(&Gate{Before: func(ctx context.Context, cmd redis.Cmder) {
			if cmd.Name() == "get" {
				other.Set(ctx, key, "theirs", 0)
			}
		}})
		cmds, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, key, "ours", 0)
			p.Get(ctx, key)
			p.Get(ctx, key+"absent")
			p.StrLen(ctx, key)
			return nil
		})
		require.ErrorIs(t, err, redis.Nil, "a pipeline returns the first error of its commands")
		require.Equal(t, "theirs", cmds[1].(*redis.StringCmd).Val())
		require.Equal(t, int64(6), cmds[3].(*redis.IntCmd).Val(), "commands after an error are sent as well")
	})
}

func TestGateWithoutFunctionsLetsEverythingPass(t *testing.T) {
	t.Parallel()
	rdb := StartEmbedded(t).Client(nil)
	rdb.AddHook(&Gate{})
	require.NoError(t, rdb.Set(t.Context(), "a", "b", 0).Err())
}

func TestCounterCountsCommandsByNameAndRoundTrips(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	rdb := StartEmbedded(t).Client(func(o *redis.Options) { o.ClientName = "c" })
	var count Counter
	rdb.AddHook(&count)
	rdb.Get(ctx, "a")
	_, _ = rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Get(ctx, "a")
		p.Set(ctx, "a", 1, 0)
		return nil
	})
	require.Equal(t, 2, count.Count("get"))
	require.Equal(t, 3, count.Count("get", "set"))
	require.Equal(t, 3, count.Count(), "commands that open a connection do not count")
	require.Equal(t, 2, count.RoundTrips())
	count.Reset()
	require.Zero(t, count.Count()+count.RoundTrips())
}

func TestCommandsThatOpenAConnectionAreToldFromOthers(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, args := range [][]any{{"hello", 3}, {"AUTH", "x"}, {"client", "setinfo", "LIB-VER", "1"}, {"client", "setname", "x"}} {
		require.True(t, opensConnection(redis.NewCmd(ctx, args...)), args)
	}
	for _, args := range [][]any{{"get", "hello"}, {"client"}, {"client", "tracking", "on"}, {}} {
		require.False(t, opensConnection(redis.NewCmd(ctx, args...)), args)
	}
}

func TestFaultsFailOneCommandBeforeItIsExecuted(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, key := t.Context(), Key(t)
		var faults Faults
		rdb.AddHook(&faults)
		faults.Add(Fault{Match: Named("incr"), Skip: 1})
		require.NoError(t, rdb.Incr(ctx, key).Err())
		require.ErrorIs(t, rdb.Incr(ctx, key).Err(), io.EOF)
		require.Equal(t, int64(2), rdb.Incr(ctx, key).Val(), "the second was not executed, and the third passes")
	})
}

func TestFaultsLoseTheReplyOfAnExecutedCommand(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, key := t.Context(), Key(t)
		var faults Faults
		rdb.AddHook(&faults)
		reset := errors.New("reset")
		faults.Add(Fault{Executed: true, Times: 2, Err: reset})
		require.ErrorIs(t, rdb.Incr(ctx, key).Err(), reset)
		require.ErrorIs(t, rdb.Incr(ctx, key).Err(), reset)
		require.Equal(t, int64(3), rdb.Incr(ctx, key).Val())
	})
}

func TestFaultsThatLastAlwaysEndWithClear(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	rdb := StartEmbedded(t).Client(nil)
	var faults Faults
	rdb.AddHook(&faults)
	faults.Add(Fault{Times: Always})
	for range 10 {
		require.ErrorIs(t, rdb.Ping(ctx).Err(), io.EOF)
	}
	faults.Clear()
	require.NoError(t, rdb.Ping(ctx).Err())
}

func TestFaultsCutAPipelineWhereTheyStrike(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		executed bool
		last     int64 // value of the key afterwards
	}{
		"before execution": {false, 1},
		"after execution":  {true, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Each(t, func(t *testing.T, rdb *redis.Client) {
				ctx, key := t.Context(), Key(t)
				var faults Faults
				rdb.AddHook(&faults)
				faults.Add(Fault{Match: Named("incr"), Skip: 1, Executed: test.executed})
				cmds, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
					p.Incr(ctx, key)
					p.Incr(ctx, key)
					p.Incr(ctx, key)
					return nil
				})
				require.ErrorIs(t, err, io.EOF)
				require.NoError(t, cmds[0].Err())
				require.ErrorIs(t, cmds[1].Err(), io.EOF)
				require.ErrorIs(t, cmds[2].Err(), io.EOF, "it shares the connection")
				n, err := rdb.Get(ctx, key).Int64()
				require.NoError(t, err)
				require.Equal(t, test.last, n)
			})
		})
	}
}

func TestFaultsTakeATransactionWhole(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, key := t.Context(), Key(t)
		var faults Faults
		rdb.AddHook(&faults)
		faults.Add(Fault{Match: Named("exec")})
		cmds, err := rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Incr(ctx, key)
			return nil
		})
		require.ErrorIs(t, err, io.EOF)
		require.ErrorIs(t, cmds[0].Err(), io.EOF)
		require.ErrorIs(t, rdb.Get(ctx, key).Err(), redis.Nil)
	})
}
