package sizes

import (
	"context"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/script"
)

// aside are the scripts of batches that a process cannot read, or that the database
// refuses, with ten batches parked, all of the ids of the batch in flight, and all of
// these unread and refused before.
func aside(t *testing.T, rdb *redis.Client) []load {
	const parked = 10
	keys := []string{"{aside}%pending", "{aside}%inflight", "{aside}%refused", "{aside}%unread", "{aside}%parked", "{aside}%aside"}
	fill := func(t *testing.T, ctx context.Context, value string, given bool, batches int) {
		require.NoError(t, rdb.Unlink(ctx, keys...).Err())
		ids := make([]any, 0, 2*mostBatch)
		for id := range mostBatch {
			ids = append(ids, fmt.Sprint("an id of some length ", id), value)
		}
		for batch := range batches + 1 {
			require.NoError(t, rdb.HSet(ctx, keys[1], ids...).Err())
			require.NoError(t, rdb.HSet(ctx, keys[1], "#n", "5", "#a", "4", "#tok", fmt.Sprint("T", batch), "#inc", "1", "#by", "me", "#t0", "17").Err())
			if given {
				require.NoError(t, rdb.HSet(ctx, keys[1], "#r", "1").Err())
			}
			if batch < batches {
				park := &script.Call{Script: script.ParkBatch, Key: keys[0], More: keys[1:5], Args: []any{"5", fmt.Sprint("T", batch), "sum", "me"}}
				require.NoError(t, park.Run(ctx, rdb))
				require.EqualValues(t, 1, park.Reply)
			}
		}
		require.NoError(t, rdb.HSet(ctx, keys[2], ids...).Err())
		require.NoError(t, rdb.HSet(ctx, keys[3], append(ids, "#t0", "1", "#v", "v")...).Err())
	}
	// run calls a script until all of its work is done.
	run := func(t *testing.T, ctx context.Context, s *script.Script, more []string, args ...any) {
		for calls := 0; ; calls++ {
			require.Less(t, calls, 1000)
			c := &script.Call{Script: s, Key: keys[0], More: more, Args: args}
			require.NoError(t, c.Run(ctx, rdb))
			if c.Reply != int64(2) {
				require.EqualValues(t, 1, c.Reply)
				return
			}
		}
	}
	with := func(args []any) []any {
		for id := range mostBatch {
			args = append(args, fmt.Sprint("an id of some length ", id))
		}
		return args
	}
	token := fmt.Sprint("T", parked)
	var all []load
	for _, merge := range []string{"sum", "last"} {
		for _, value := range []string{"7", "=7"} {
			name := fmt.Sprintf(" (%s, %s)", merge, value)
			all = append(all,
				load{"write-behind, park" + name, func(t *testing.T, ctx context.Context) { fill(t, ctx, value, false, 0) }, func(t *testing.T, ctx context.Context) {
					run(t, ctx, script.ParkBatch, keys[1:5], "5", "T0", merge, "me")
				}},
				load{"write-behind, park again" + name, func(t *testing.T, ctx context.Context) { fill(t, ctx, value, true, parked) }, func(t *testing.T, ctx context.Context) {
					run(t, ctx, script.ParkBatch, keys[1:5], "5", token, merge, "me")
				}},
				load{"write-behind, acknowledge" + name, func(t *testing.T, ctx context.Context) { fill(t, ctx, value, true, parked) }, func(t *testing.T, ctx context.Context) {
					run(t, ctx, script.AckBatch, keys[1:5], "5", token, merge, 100, 0)
				}},
				load{"write-behind, acknowledge what was refused" + name, func(t *testing.T, ctx context.Context) { fill(t, ctx, value, true, 0) }, func(t *testing.T, ctx context.Context) {
					run(t, ctx, script.AckBatch, keys[1:5], with([]any{"5", "T0", merge, 100, mostBatch})...)
				}},
				load{"write-behind, acknowledge what was not read" + name, func(t *testing.T, ctx context.Context) { fill(t, ctx, value, true, 0) }, func(t *testing.T, ctx context.Context) {
					run(t, ctx, script.AckBatch, keys[1:5], with([]any{"5", "T0", merge, 100, 0})...)
				}},
				load{"write-behind, settle" + name, func(t *testing.T, ctx context.Context) { fill(t, ctx, value, true, parked) }, func(t *testing.T, ctx context.Context) {
					run(t, ctx, script.SettleBatch, keys[1:5], with([]any{"5", token, merge, "T3", "5", "6", "fresh", 100, mostBatch})...)
				}},
				load{"write-behind, drop" + name, func(t *testing.T, ctx context.Context) { fill(t, ctx, value, true, parked) }, func(t *testing.T, ctx context.Context) {
					run(t, ctx, script.DropBatch, keys[1:], "5", token, merge, "5", "1", "", 100)
				}},
				load{"write-behind, unpark" + name, func(t *testing.T, ctx context.Context) {
					fill(t, ctx, value, true, parked)
					require.NoError(t, rdb.HSet(ctx, keys[1], "#a", "5").Err())
				}, func(t *testing.T, ctx context.Context) {
					run(t, ctx, script.UnparkBatch, keys[1:5], fmt.Sprint("T", parked-1), "me", 60_000)
				}},
				load{"write-behind, look" + name, func(t *testing.T, ctx context.Context) { fill(t, ctx, value, true, parked) }, func(t *testing.T, ctx context.Context) {
					look := &script.Call{Script: script.LookBatch, Key: keys[0], More: keys[1:5], Args: with(nil)}
					require.NoError(t, look.Run(ctx, rdb))
				}},
				load{"write-behind, list and rescue" + name, func(t *testing.T, ctx context.Context) { fill(t, ctx, value, true, parked) }, func(t *testing.T, ctx context.Context) {
					for _, key := range []string{"U", "L"} {
						list := &script.Call{Script: script.ListUnread, Key: keys[0], More: keys[1:5], Args: []any{"0", key}}
						require.NoError(t, list.Run(ctx, rdb))
					}
					rescue := &script.Call{Script: script.RescueUnread, Key: keys[0], More: keys[1:5], Args: with([]any{merge, "v"})[:102]}
					require.NoError(t, rescue.Run(ctx, rdb))
				}},
			)
		}
	}
	return all
}
