package writebehind

import (
	"context"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
)

// A batch is taken between the reads of the ids in flight and of the pending
// ids, or after both. Its ids are never seen twice, and never missed.
func TestALookAtOneKeyAfterTheOtherIsOfOneMoment(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for _, before := range []bool{true, false} {
			ctx, d := bounded(t), newDatabase()
			o := options(t, d, Sum)
			began, release := make(chan struct{}), make(chan struct{})
			d.fail(func(ledger.Batch) error { close(began); <-release; return nil })
			taker := engine(t, rdb, o)
			require.NoError(t, taker.Add(ctx, "x", 5))
			whole, err := taker.LookMany(ctx, []string{"x", "y"})
			require.NoError(t, err)

			// The answer of a node to a script if it has only some of the keys.
			refusal := rdb.Eval(ctx, `return redis.error_reply('TRYAGAIN Multiple keys request during rehashing of slot')`, nil).Err()
			require.True(t, redis.IsTryAgainError(refusal))
			faults, flushed := new(redistest.Faults), make(chan error, 1)
			take := sync.OnceFunc(func() {
				go func() { flushed <- taker.Flush(ctx) }()
				<-began
			})
			moving := redis.NewClient(rdb.Options())
			t.Cleanup(func() { _ = moving.Close() })
			moving.AddHook(faults)
			taking := false
			between := func(is bool) func(context.Context, redis.Cmder) {
				return func(_ context.Context, cmd redis.Cmder) {
					if taking && is && cmd.Name() == "hmget" && cmd.Args()[1] == taker.Keys(0).Pending {
						take()
					}
				}
			}
			moving.AddHook(&redistest.Gate{Before: between(before), After: between(!before)})
			faults.Add(redistest.Fault{Times: redistest.Always, Err: refusal, Match: func(cmd redis.Cmder) bool {
				return len(cmd.Args()) > 1 && cmd.Args()[1] == script.LookBatch.SHA()
			}})
			e := engine(t, moving, o)
			seen, err := e.LookMany(ctx, []string{"x", "y"})
			require.NoError(t, err)
			require.Equal(t, whole, seen, "as by the script")
			taking = true
			seen, err = e.LookMany(ctx, []string{"x", "y"})
			require.NoError(t, err)
			require.Nil(t, seen[0].Pending)
			require.NotNil(t, seen[0].InFlight)
			require.Equal(t, "5", *seen[0].InFlight)
			require.NotEqual(t, whole[0].Moment, seen[0].Moment)
			whole, err = taker.LookMany(ctx, []string{"x", "y"})
			require.NoError(t, err)
			require.Equal(t, whole, seen)
			l, err := e.Look(ctx, 0, "x", "y")
			require.NoError(t, err)
			require.Equal(t, Look{Incarnation: seen[0].Incarnation, Moment: seen[0].Moment, Pending: []*string{nil, nil}, InFlight: []*string{seen[0].InFlight, nil}}, l)
			close(release)
			require.NoError(t, <-flushed)
		}
	})
}
