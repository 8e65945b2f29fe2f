package redistest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestAClusterServesAllKeysFromMastersThatKnowEachOther(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := StartCluster(t, 3)
	for _, node := range c.Nodes() { // or a machine that stands still ends the cluster
		got, err := node.Client(nil).ConfigGet(t.Context(), "cluster-node-timeout").Result()
		require.NoError(t, err)
		require.Equal(t, "3600000", got["cluster-node-timeout"])
	}
	rdb := c.Client(&redis.ClusterOptions{MaxRedirects: -1}) // no client is redirected
	require.Len(t, c.Addrs(), 3)

	const keys = 300
	for i := range keys {
		require.NoError(t, rdb.Set(ctx, Key(t), i, 0).Err())
	}
	var mu sync.Mutex
	var seen []string
	require.NoError(t, rdb.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		n, err := node.DBSize(ctx).Result()
		mu.Lock()
		defer mu.Unlock()
		require.Greater(t, n, int64(keys/10), "%s has hardly a share", node.Options().Addr)
		seen = append(seen, node.Options().Addr)
		return err
	}))
	require.ElementsMatch(t, c.Addrs(), seen)
	require.Equal(t, int64(keys), rdb.DBSize(ctx).Val())

	// Every node knows where the others are, and which slots they own.
	for _, addr := range c.Addrs() {
		node := redis.NewClient(&redis.Options{Addr: addr})
		known, err := node.ClusterNodes(ctx).Result()
		require.NoError(t, node.Close())
		require.NoError(t, err)
		for i, other := range c.Addrs() {
			require.Regexp(t, fmt.Sprintf(`(?m) %s@.* %s$`, other, []string{"0-5460", "5461-10921", "10922-16383"}[i]), known)
		}
	}
}

func TestAReplicaTakesThePlaceOfAMasterThatWasKilled(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := StartCluster(t, 3, WithReplicas(3*time.Second))
	rdb := c.Client(&redis.ClusterOptions{ClusterStateReloadInterval: 100 * time.Millisecond})
	require.NoError(t, rdb.Set(ctx, "a", "1", 0).Err())
	master := c.Owner("a")
	require.EqualValues(t, 1, master.Client(nil).Wait(ctx, 1, Patience).Val(), "the replica has it")
	master.Kill()
	require.Eventually(t, func() bool { return rdb.Get(ctx, "a").Val() == "1" }, Patience, 50*time.Millisecond)
	// The replica serves before the other nodes have heard of it.
	for until := time.Now().Add(Patience); c.Owner("a") == master && time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
	}
	require.NotSame(t, master, c.Owner("a"))
}

func TestASlotMovesWithItsKeysWhileTheyAreRead(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := StartCluster(t, 2)
	rdb := c.Client(nil)
	const keys = 20
	for i := range keys {
		require.NoError(t, rdb.Set(ctx, fmt.Sprintf("{a}:%d", i), i, 0).Err())
	}
	to := c.OtherThan(c.Owner("{a}"))
	steps := 0
	c.Move(c.Slot("{a}"), to, func() {
		steps++
		for i := range keys {
			require.Equal(t, fmt.Sprint(i), rdb.Get(ctx, fmt.Sprintf("{a}:%d", i)).Val())
		}
	})
	require.Equal(t, keys, steps)
	require.EqualValues(t, keys, to.Client(nil).DBSize(ctx).Val())
	require.Same(t, to, c.Owner("{a}"))
}

func TestANodeIsAddedToAClusterAndRemoved(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := StartCluster(t, 2)
	rdb := c.Client(nil)
	require.NoError(t, rdb.Set(ctx, "a", "1", 0).Err())
	owner := c.Owner("a")
	node := c.Add()
	require.Len(t, c.Nodes(), 3)
	c.Move(c.Slot("a"), node, nil)
	require.Same(t, node, c.Owner("a"))
	require.Equal(t, "1", rdb.Get(ctx, "a").Val())
	require.EqualValues(t, 1, node.CommandCount("get"))
	c.Move(c.Slot("a"), owner, nil)
	c.Remove(node)
	require.Len(t, c.Nodes(), 2)
	require.Equal(t, "1", c.Client(nil).Get(ctx, "a").Val(), "a client that is new")
	require.Error(t, node.Client(nil).Ping(ctx).Err())
	for _, other := range c.Nodes() {
		require.Contains(t, other.Client(nil).ClusterInfo(ctx).Val(), "cluster_known_nodes:2\r\n")
	}
}
