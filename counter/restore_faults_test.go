package counter_test

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// A batch is persisted while counts are loaded, so they must be loaded again.
// Then Redis does not return the pending additions. The first result of Up is
// not the count.
func TestRestore_FailsIfPendingAdditionsCannotBeRead(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, ids := t.Context(), []int{1, 2}
		tb := newTable(map[int]int64{1: 100, 2: 200})
		spec := counter.Spec[int]{
			Key: redistest.Key(t) + ":{id}", Up: tb.up, Down: tb.down, FlushEvery: patience * 100,
			UpMany: func(ctx context.Context, ids []int) (map[int]int64, error) {
				rows := make(map[int]int64)
				for _, id := range ids {
					rows[id] = tb.get(id)
				}
				_, err := tb.up(ctx, 0) // it stops where the test lets it
				return rows, err
			},
		}
		faults, client := new(redistest.Faults), again(t, rdb)
		client.AddHook(faults)
		hurt, other := newCounter(t, client, spec), newCounter(t, rdb, spec)
		for _, id := range ids {
			_, err := other.Add(ctx, id, 10)
			require.NoError(t, err)
		}
		require.NoError(t, other.Delete(ctx, ids...))
		stops := tb.slow()
		type result struct {
			counts map[int]int64
			err    error
		}
		read := make(chan result, 1)
		go func() {
			counts, err := hurt.GetMany(ctx, ids)
			read <- result{counts, err}
		}()
		goOn := <-stops
		require.NoError(t, other.Flush(ctx))
		faults.Add(redistest.Fault{Times: redistest.Always, Match: func(cmd redis.Cmder) bool {
			args := cmd.Args()
			return len(args) > 1 && (args[1] == script.LookBatch.SHA() || args[1] == script.LookBatch.Source())
		}})
		tb.fast()
		close(goOn)
		r := <-read
		require.Error(t, r.err)
		require.Empty(t, r.counts)
		faults.Clear()
		counts, err := hurt.GetMany(ctx, ids)
		require.NoError(t, err)
		require.Equal(t, map[int]int64{1: 110, 2: 210}, counts)
	})
}
