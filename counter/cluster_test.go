package counter_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

// One cluster serves all tests that need one.
func TestCounter_OnACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3)
	t.Run("keeps counts where they are pending", func(t *testing.T) { keptWherePending(t, cluster.Client(nil)) })
	t.Run("spreads counts, and runs each operation in one slot", func(t *testing.T) { spreadOver(t, cluster.Client(nil)) })
	t.Run("counts on while a slot moves", func(t *testing.T) { countedOnTheMove(t, cluster) })
}

func keptWherePending(t *testing.T, rdb *redis.ClusterClient) {
	tb := newTable(map[int]int64{})
	ids := make([]int, 50)
	want := make(map[int]int64)
	for i := range ids {
		ids[i] = i
		tb.rows[i] = int64(i) * 10
		want[i] = int64(i)*10 + 2
	}
	c := newCounter(t, rdb, counter.Spec[int]{Key: redistest.Key(t) + ":{id}", Up: tb.up, Down: tb.down, FlushEvery: patience * 100})
	for _, id := range ids {
		n, err := c.Inc(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, int64(id)*10+1, n)
		n, err = c.AddOnce(t.Context(), id, 1, "op")
		require.NoError(t, err)
		require.Equal(t, int64(id)*10+2, n)
	}
	b, err := counter.NewBuffer(c, counter.BufferOptions{})
	require.NoError(t, err)
	for _, id := range ids {
		require.NoError(t, b.Inc(id))
		want[id]++
	}
	require.NoError(t, b.Flush(t.Context()))
	require.NoError(t, c.Delete(t.Context(), ids...))
	counts, err := c.GetMany(t.Context(), ids)
	require.NoError(t, err)
	require.Equal(t, want, counts)
	require.NoError(t, c.Flush(t.Context()))
	for _, id := range ids {
		require.Equal(t, want[id], tb.get(id))
	}
	plain := newCounter(t, rdb, counter.Spec[int]{Key: redistest.Key(t) + ":plain:{id}"})
	n, err := plain.AddOnce(t.Context(), 1, 1, "op")
	require.NoError(t, err)
	require.Equal(t, int64(1), n)
}

// slotWatch checks that all keys of a script share a slot, and counts slots.
type slotWatch struct {
	t   *testing.T
	rdb *redis.ClusterClient // another client, without the watch

	mu    sync.Mutex
	nodes map[string]int // guarded by mu; scripts by node
}

func (w *slotWatch) DialHook(next redis.DialHook) redis.DialHook { return next }

func (w *slotWatch) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		w.see(ctx, cmd)
		return next(ctx, cmd)
	}
}

func (w *slotWatch) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			w.see(ctx, cmd)
		}
		return next(ctx, cmds)
	}
}

func (w *slotWatch) see(ctx context.Context, cmd redis.Cmder) {
	if !strings.HasPrefix(cmd.Name(), "eval") {
		return
	}
	ctx = context.WithoutCancel(ctx) // a heartbeat ends its ctx at any time
	args := cmd.Args()
	keys := args[3 : 3+args[2].(int)]
	slot := func(key any) int64 {
		n, err := w.rdb.ClusterKeySlot(ctx, key.(string)).Result()
		if err != nil {
			w.t.Error(err)
		}
		return n
	}
	for _, key := range keys {
		if slot(key) != slot(keys[0]) {
			w.t.Errorf("a script has keys of several slots: %v", keys)
		}
	}
	node, err := w.rdb.MasterForKey(ctx, keys[0].(string))
	if err != nil {
		w.t.Error(err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[node.Options().Addr]++
}

func spreadOver(t *testing.T, rdb *redis.ClusterClient) {
	w := &slotWatch{t: t, nodes: map[string]int{}}
	w.rdb = redis.NewClusterClient(&redis.ClusterOptions{Addrs: rdb.Options().Addrs, ReadTimeout: redistest.Patience})
	t.Cleanup(func() { _ = w.rdb.Close() })
	rdb.AddHook(w)
	ctx, tb := t.Context(), newTable(map[int]int64{})
	for name, spec := range map[string]counter.Spec[int]{
		"plain": {}, "up": {Up: tb.up}, "counts": {Up: tb.up, UpCounts: true}, "down": {Up: tb.up, Down: tb.down, FlushEvery: patience * 100},
	} {
		spec.Key = redistest.Key(t) + ":" + name + ":{id}"
		c := newCounter(t, rdb, spec)
		var ids []int
		for id := range 30 {
			ids = append(ids, id)
			tb.set(id, 0)
			for _, step := range []func() error{
				func() error { _, err := c.Get(ctx, id); return err },
				func() error { _, err := c.Inc(ctx, id); return err },
				func() error { _, err := c.AddOnce(ctx, id, 1, "op"); return err },
				func() error { return c.Set(ctx, id, 7) },
				func() error { _, err := c.Inc(ctx, id); return err },
			} {
				require.NoError(t, step(), name)
			}
		}
		require.NoError(t, c.Flush(ctx))
		counts, err := c.GetMany(ctx, ids)
		require.NoError(t, err)
		for _, id := range ids {
			require.Equal(t, int64(8), counts[id], name)
			if spec.Down != nil {
				require.Equal(t, int64(8), tb.get(id))
			}
		}
		require.NoError(t, c.Delete(ctx, ids...))
		_, err = c.GetMany(ctx, ids)
		require.NoError(t, err)
		w.mu.Lock()
		require.Len(t, w.nodes, 3, name)
		for node, n := range w.nodes {
			require.Greater(t, n, 10, "%s: %s has hardly a share", name, node)
		}
		clear(w.nodes)
		w.mu.Unlock()
	}
}

// Counts are used at every stage of the move of their slot, key by key. While
// some keys of a script have moved, Redis rejects the script, which has then
// done nothing.
func countedOnTheMove(t *testing.T, cluster *redistest.Cluster) {
	ctx, rdb := t.Context(), cluster.Client(nil)
	tb := newTable(map[int]int64{1: 100})
	for name, spec := range map[string]counter.Spec[int]{
		"plain": {}, "up": {Up: tb.up}, "counts": {Up: tb.up, UpCounts: true}, "down": {Up: tb.up, Down: tb.down, FlushEvery: patience * 100},
	} {
		spec.Key = redistest.Key(t) + ":" + name + ":{id}"
		c, want, refused := newCounter(t, rdb, spec), int64(0), 0
		if spec.Up != nil {
			want = tb.get(1)
		}
		requireCount(t, c, 1, want, name)
		use := func(stage string) {
			for i, add := range []func() (int64, error){
				func() (int64, error) { return c.Inc(ctx, 1) },
				func() (int64, error) { return c.AddOnce(ctx, 1, 1, stage) },
			} {
				n, err := add()
				if err != nil {
					require.True(t, i == 1 || spec.Down != nil, "%s, %s: %v", name, stage, err) // otherwise it has one key
					require.ErrorContains(t, err, "TRYAGAIN", "%s, %s", name, stage)
					require.False(t, errors.Is(err, counter.ErrOutcomeUnknown))
					refused++
					continue
				}
				want++
				require.Equal(t, want, n, "%s, %s", name, stage)
			}
			requireCount(t, c, 1, want, "%s, %s", name, stage)
		}
		use("before")
		slot := rdb.ClusterKeySlot(ctx, c.Key(1)).Val()
		from, err := rdb.MasterForKey(ctx, c.Key(1))
		require.NoError(t, err)
		to := other(t, cluster, from.Options().Addr)
		source, target := from.Do(ctx, "cluster", "myid").Val(), to.Do(ctx, "cluster", "myid").Val()
		require.NoError(t, to.Do(ctx, "cluster", "setslot", slot, "importing", source).Err())
		require.NoError(t, from.Do(ctx, "cluster", "setslot", slot, "migrating", target).Err())
		use("begun")
		host, port, err := net.SplitHostPort(to.Options().Addr)
		require.NoError(t, err)
		keys, err := from.ClusterGetKeysInSlot(ctx, int(slot), 100).Result()
		require.NoError(t, err)
		require.NotEmpty(t, keys)
		for i, k := range keys {
			require.NoError(t, from.Migrate(ctx, host, port, k, 0, patience).Err())
			use(fmt.Sprint("key ", i))
		}
		for _, node := range []*redis.Client{to, from} {
			require.NoError(t, node.Do(ctx, "cluster", "setslot", slot, "node", target).Err())
			use("told " + node.Options().Addr)
		}
		require.NoError(t, c.Flush(ctx))
		require.NoError(t, c.Delete(ctx, 1))
		if spec.Down != nil {
			require.Equal(t, want, tb.get(1))
			requireCount(t, c, 1, want)
		}
		require.Positive(t, refused, name)
	}
}

// other returns a client of another node.
func other(t *testing.T, cluster *redistest.Cluster, addr string) *redis.Client {
	t.Helper()
	for _, a := range cluster.Addrs() {
		if a != addr {
			node := redis.NewClient(&redis.Options{Addr: a, ReadTimeout: redistest.Patience})
			t.Cleanup(func() { _ = node.Close() })
			return node
		}
	}
	require.FailNow(t, "a cluster of one")
	return nil
}
