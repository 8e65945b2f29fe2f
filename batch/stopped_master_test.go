package batch_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// A panics is a hook that panics on a pipeline for some keys.
type panics struct {
	redis.Hook
	on func(key string) bool
}

func (p panics) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (p panics) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (p panics) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return p.on(script.KeyOf(cmd)) }) {
			panic("a hook")
		}
		return next(ctx, cmds)
	}
}

// A hook of the client that panics for the keys of one server concerns these alone.
func TestGetMany_HookThatPanicsForOneServerSparesTheOthers(t *testing.T) {
	t.Parallel()
	for name, read := range ways {
		for _, warm := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, warm %v", name, warm), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					rdb, _ := shards(t, 3)
					l := new(loads)
					spec := cachex.Spec[int, string]{TTL: time.Hour, LeaseTTL: time.Minute, UpMany: l.upMany}
					if warm {
						spec.StaleWhileRevalidate = time.Minute
					}
					c := newCache(t, rdb, "panics", spec)
					ids := upTo(60)
					bad := byShard(t, rdb, c, ids)["shard2"]
					rdb.AddHook(panics{on: func(key string) bool {
						return slices.ContainsFunc(bad, func(id int) bool { return c.Key(id) == key })
					}})
					for range 2 {
						l.reset()
						values, err := read(t.Context(), c, ids)
						require.NoError(t, err)
						require.Equal(t, goods("up", ids...), values)
					}
					require.Equal(t, [][]int{bad}, l.calls, "the others were stored")
				})
			})
		}
	}
}

// threeMasters returns a Cluster of which one may stop, and a client. Nodes and client bear
// an hour of silence, so that a test is about what waits for the silent one, and no more.
// Before its first command outside a pipeline, the client asks a node which commands
// there are, and all wait for the answer. It has asked.
func threeMasters(t *testing.T) (*redistest.Cluster, *redis.ClusterClient) {
	t.Helper()
	cluster := redistest.StartCluster(t, 3, redistest.WithArgs("--cluster-node-timeout", "3600000"))
	rdb := cluster.Client(&redis.ClusterOptions{ReadTimeout: time.Hour, WriteTimeout: time.Hour, PoolSize: 200})
	require.ErrorIs(t, rdb.Get(t.Context(), "nothing").Err(), redis.Nil)
	require.NoError(t, rdb.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error { return node.Ping(ctx).Err() }))
	return cluster, rdb
}

// Of a Cluster whose master has stopped, what the others lack is loaded while it is
// silent. The lease has an hour too: nothing but the loads goes on.
func TestGetMany_LoadsWhatHealthyMastersLackWhileOneIsStopped(t *testing.T) {
	t.Parallel()
	cluster, rdb := threeMasters(t)
	for name, spec := range map[string]cachex.Spec[int, string]{
		"UpMany, leases first": {},
		"UpMany, reads first":  {StaleWhileRevalidate: time.Minute},
		"Up":                   {MaxLoads: 100},
	} {
		began := make(chan []int, 1000)
		upMany := func(_ context.Context, ids []int) (map[int]string, error) {
			began <- ids
			return goods("up", ids...), nil
		}
		if spec.LeaseTTL = time.Hour; spec.MaxLoads > 0 {
			spec.Up = func(ctx context.Context, id int) (string, error) {
				m, err := upMany(ctx, []int{id})
				return m[id], err
			}
		} else {
			spec.UpMany = upMany
		}
		c := newCache(t, rdb, "stopped", spec)
		ids := upTo(60)
		stopped := cluster.Owner(c.Key(0))
		paused := map[int]bool{}
		for _, id := range ids {
			node, err := rdb.MasterForKey(t.Context(), c.Key(id))
			require.NoError(t, err)
			paused[id] = node.Options().Addr == stopped.Addr()
		}
		type answer struct {
			values map[int]string
			err    error
		}
		over := make(chan answer, 1)
		stopped.Stop()
		go func() {
			values, err := c.GetMany(t.Context(), ids)
			over <- answer{values, err}
		}()
		select {
		case first := <-began:
			for _, id := range first {
				require.False(t, paused[id], "%s: key %d was loaded, of which the server is silent", name, id)
			}
		case a := <-over:
			require.Fail(t, "the call ended while a master was silent", "%s: %v", name, a)
		case <-time.After(patience):
			stopped.Cont()
			require.Fail(t, "no load began while a master was silent", name)
		}
		stopped.Cont()
		a := <-over
		require.NoError(t, a.err, name)
		require.Equal(t, goods("up", ids...), a.values, name)
	}
}
