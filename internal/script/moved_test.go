package script

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// The slot has moved from a to b, and moves on to c. Then clients that know
// neither move send: a says MOVED, b says ASK, and MaxRedirects is 1.
func TestDoAndExec_FollowASlotThatMovesOn(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	cluster := redistest.StartCluster(t, 3)
	key := redistest.Key(t)
	a := cluster.Owner(key)
	b := cluster.OtherThan(a)
	var c *redistest.Server
	for _, node := range cluster.Nodes() {
		if node != a && node != b {
			c = node
		}
	}
	cases := map[string]func(rdb *redis.ClusterClient) []error{
		"Do": func(rdb *redis.ClusterClient) []error {
			return []error{Do(ctx, rdb, redis.NewIntCmd(ctx, "unlink", key))}
		},
		"Do of a Once": func(rdb *redis.ClusterClient) []error {
			return []error{Do(ctx, rdb, NewOnce(redis.NewCmd(ctx, "setrange", key, "0", "v"), 2))}
		},
		"Exec": func(rdb *redis.ClusterClient) []error {
			unlink, put := redis.NewIntCmd(ctx, "unlink", key), NewOnce(redis.NewCmd(ctx, "append", "{"+key+"}1", "v"), 2)
			return []error{Exec(ctx, rdb, []redis.Cmder{unlink, put}), Err(unlink), Err(put)}
		},
	}
	rdbs := make(map[string]*redis.ClusterClient)
	for name := range cases {
		rdbs[name] = cluster.Client(&redis.ClusterOptions{MaxRedirects: 1})
		require.ErrorIs(t, rdbs[name].Get(ctx, "{"+key+"}:other").Err(), redis.Nil)
	}
	slot := cluster.Slot(key)
	cluster.Move(slot, b, nil)
	id := func(node *redistest.Server) string {
		id, err := node.Client(nil).Do(ctx, "cluster", "myid").Text()
		require.NoError(t, err)
		return id
	}
	require.NoError(t, c.Client(nil).Do(ctx, "cluster", "setslot", slot, "importing", id(b)).Err())
	require.NoError(t, b.Client(nil).Do(ctx, "cluster", "setslot", slot, "migrating", id(c)).Err())
	for name, do := range cases {
		for _, err := range do(rdbs[name]) {
			require.NoError(t, err, name)
		}
	}
	require.Equal(t, "v", cluster.Client(nil).Get(ctx, "{"+key+"}1").Val(), "it was appended once")
}
