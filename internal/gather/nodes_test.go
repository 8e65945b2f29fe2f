package gather

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// requireGathered has many read keys that hold their own names, while meanwhile runs, and
// requires that every value is right, and that they left together.
func requireGathered(t *testing.T, rdb redis.UniversalClient, sent *redistest.Counter, lanes int, meanwhile func()) {
	t.Helper()
	ctx := t.Context()
	base := redistest.Key(t)
	keys := make([]string, 300)
	for i := range keys {
		keys[i] = fmt.Sprint(base, ":", i)
		if i%3 != 0 {
			require.NoError(t, rdb.Set(ctx, keys[i], keys[i], 0).Err())
		}
	}
	c := For(rdb)
	sent.Reset()
	var wg sync.WaitGroup
	const readers, times = 32, 50
	for range readers {
		wg.Go(func() {
			for range times {
				i := rand.IntN(len(keys))
				v, err := c.Get(ctx, keys[i], "", 20)
				if i%3 == 0 {
					require.ErrorIs(t, err, redis.Nil)
				} else {
					require.NoError(t, err)
					require.Equal(t, keys[i], string(v.B))
				}
				v.Release()
			}
		})
	}
	if meanwhile != nil {
		meanwhile()
	}
	wg.Wait()
	n := 0
	c.nodes.Range(func(any, any) bool { n++; return true })
	require.Equal(t, lanes, n)
	<-c.Release()
	require.Less(t, sent.RoundTrips(), readers*times)
}

func TestOnAClusterReadsLeaveTogetherForEachNode(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3)
	rdb := cluster.Client(nil)
	sent := new(redistest.Counter)
	rdb.AddHook(sent)
	key := redistest.Key(t) + "1"
	owner := cluster.Owner(key)
	requireGathered(t, rdb, sent, 3, func() {
		cluster.Move(cluster.Slot(key), cluster.OtherThan(owner), nil)
	})
	require.Zero(t, sent.Count("mget"), "its keys are in several slots")
}

func TestOnARingReadsLeaveTogetherForEachShard(t *testing.T) {
	t.Parallel()
	rdb := redistest.Ring(t, &redis.RingOptions{}, redistest.Start(t), redistest.Start(t))
	sent := new(redistest.Counter)
	rdb.AddHook(sent)
	requireGathered(t, rdb, sent, 2, nil)
}

func TestOnOneServerReadsLeaveTogether(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		sent := new(redistest.Counter)
		rdb.AddHook(sent)
		requireGathered(t, rdb, sent, 0, nil)
		require.NotZero(t, sent.Count("mget"))
	})
}

func TestAClientForgetsNodesThatAreTooMany(t *testing.T) {
	t.Parallel()
	rdb := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": redistest.StartEmbedded(t).Addr()}})
	t.Cleanup(func() { require.NoError(t, rdb.Close()) })
	c := newClient(rdb)
	for i := range maxNodes {
		c.nodes.Store(new(redis.Client), c.newLanes())
		c.count.Store(int64(i + 1))
	}
	l := c.lanes(context.Background(), "a")
	require.NotNil(t, l)
	require.Same(t, l, c.lanes(context.Background(), "a"))
	n := 0
	c.nodes.Range(func(any, any) bool { n++; return true })
	require.Equal(t, 1, n)
}
