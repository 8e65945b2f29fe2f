package script_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

func TestLots_HaveALargeElementAlone(t *testing.T) {
	t.Parallel()
	const mb = 1 << 20
	for _, row := range []struct {
		sizes []int
		lots  string
	}{
		{nil, "[]"},
		{[]int{1}, "[1]"},
		{[]int{1, 1, 1, 1, 1, 1, 1}, "[3 3 1]"},
		{[]int{mb, mb, mb}, "[3]"},
		{[]int{2 * mb}, "[1]"},
		{[]int{2 * mb, 2 * mb}, "[1 1]"},
		{[]int{1, 2 * mb, 1}, "[1 1 1]"},
		{[]int{2 * mb, 1, 1, 2 * mb}, "[1 2 1]"},
		{[]int{9 * mb, 1, 1}, "[1 2]"},
	} {
		all := make([][]any, len(row.sizes))
		for i, n := range row.sizes {
			if all[i] = []any{"word", make([]byte, n), i}; i%2 == 0 {
				all[i] = []any{strings.Repeat("x", n), i}
			}
		}
		lots, joined := []int{}, [][]any{}
		for some := range script.Lots(all, 3, func(args []any) []any { return args }) {
			lots, joined = append(lots, len(some)), append(joined, some...)
		}
		require.Equal(t, row.lots, fmt.Sprint(lots), row.sizes)
		require.Len(t, joined, len(all))
		for i := range all {
			require.Equal(t, i, joined[i][len(joined[i])-1])
		}
	}
	lots := 0
	for some := range script.Lots(slices.Repeat([]string{strings.Repeat("x", mb)}, 100), 500, func(s string) []any { return []any{s} }) {
		require.LessOrEqual(t, len(some), 4, "it takes too long on a slow line")
		if lots++; lots == 2 {
			break
		}
	}
	require.Equal(t, 2, lots)
}

// tooLong is longer than a server of these tests accepts.
var tooLong = strings.Repeat("x", 2<<20)

// admits has the arguments of a server that accepts no argument above 1 MB.
var admits = []string{"--proto-max-bulk-len", "1mb"}

// A server closes the connection on an argument that is too long. If the client
// put that connection back into its pool, another command would fail on it.
func TestArgumentThatIsTooLong_HarmsNoOtherCommand(t *testing.T) {
	t.Parallel()
	once := func(o *redis.Options) { o.MaxRetries = -1 }
	for name, start := range map[string]func(t *testing.T) redis.UniversalClient{
		"server": func(t *testing.T) redis.UniversalClient { return redistest.Start(t, admits...).Client(once) },
		"cluster": func(t *testing.T) redis.UniversalClient {
			return redistest.StartCluster(t, 3, redistest.WithArgs(admits...)).Client(&redis.ClusterOptions{MaxRetries: -1})
		},
		"ring": func(t *testing.T) redis.UniversalClient {
			return redistest.Ring(t, &redis.RingOptions{MaxRetries: -1}, redistest.Start(t, admits...), redistest.Start(t, admits...))
		},
		"AutoPipeline": func(t *testing.T) redis.UniversalClient {
			auto, err := redistest.Start(t, admits...).Client(once).AutoPipeline()
			require.NoError(t, err)
			t.Cleanup(func() { _ = auto.Close() })
			return auto
		},
		"AutoPipeline in full duplex": func(t *testing.T) redis.UniversalClient {
			auto, err := redistest.Start(t, admits...).Client(once).AutoPipelineWithOptions(&redis.AutoPipelineOptions{FullDuplex: true})
			require.NoError(t, err)
			t.Cleanup(func() { _ = auto.Close() })
			return auto
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := start(t)
			push := script.NewHarmless("push it", `return redis.call('RPUSH', KEYS[1], ARGV[1])`)
			refused := func(err error) {
				require.ErrorContains(t, err, "Redis may refuse an argument of ")
				require.ErrorContains(t, err, "proto-max-bulk-len")
				require.NotContains(t, err.Error(), "xxx")
				require.False(t, script.Unknown(err), "%v", err)
				require.True(t, script.Answered(err), "Redis is there")
			}
			sends := []func(ctx context.Context, key string){
				func(ctx context.Context, key string) {
					refused(script.Do(ctx, rdb, script.NewSet(ctx, key, []byte(tooLong), 0)))
				},
				func(ctx context.Context, key string) {
					_, err := push.Run(ctx, rdb, key, tooLong)
					refused(err)
				},
				func(ctx context.Context, key string) {
					_, err := push.RunOnce(ctx, rdb, key, tooLong)
					refused(err)
				},
				func(ctx context.Context, key string) {
					calls := make([]*script.Call, 9)
					for i := range calls {
						calls[i] = &script.Call{Script: push, Key: fmt.Sprint(key, i), Args: []any{"short"}, Once: i%2 == 0}
					}
					calls[3].Args, calls[4].Args, calls[8].Args = []any{tooLong}, []any{tooLong}, []any{tooLong}
					_ = script.Pipeline(ctx, rdb, calls)
					for i, c := range calls {
						if i == 3 || i == 4 || i == 8 {
							refused(c.Err)
						} else {
							require.NoError(t, c.Err)
						}
					}
				},
			}
			var all sync.WaitGroup
			for i := range 4 {
				all.Go(func() {
					for j := range 25 {
						key := fmt.Sprint("k", i, ":", j)
						sends[j%len(sends)](t.Context(), key)
						for k := range 4 {
							require.NoError(t, rdb.Incr(t.Context(), fmt.Sprint("n", k)).Err(), "a command of another party")
						}
					}
				})
			}
			all.Wait()
			for k := range 4 {
				n, err := rdb.Get(t.Context(), fmt.Sprint("n", k)).Int()
				require.NoError(t, err)
				require.Equal(t, 100, n)
			}
		})
	}
}
