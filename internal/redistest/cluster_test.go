package redistest

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestAClusterServesAllKeysFromMastersThatKnowEachOther(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := StartCluster(t, 3)
	rdb := c.Client(&redis.ClusterOptions{MaxRedirects: -1}) // nobody is sent elsewhere
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

	// Whichever node is asked, it knows the owner.
	for _, addr := range c.Addrs() {
		node := redis.NewClient(&redis.Options{Addr: addr})
		owned, err := node.ClusterSlots(ctx).Result()
		require.NoError(t, node.Close())
		require.NoError(t, err)
		require.Len(t, owned, 3)
		total := 0
		for _, part := range owned {
			total += part.End - part.Start + 1
			_, err := strconv.Atoi(part.Nodes[0].Addr[len("127.0.0.1:"):])
			require.NoError(t, err, "a node does not know the address of another")
		}
		require.Equal(t, slots, total)
	}
}
