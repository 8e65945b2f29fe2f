package batch_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/collection"
)

// Loads of single keys that a slow server has held up share the limit of the call.
func TestGetMany_LoadsNoMoreAtOnceIfAServerIsSlow(t *testing.T) {
	t.Parallel()
	for name, read := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rdb, servers := shards(t, 2)
				var mu sync.Mutex
				running, most := 0, 0
				c := newCache(t, rdb, "limit", cachex.Spec[int, string]{
					TTL: time.Hour, LeaseTTL: time.Minute,
					Up: func(_ context.Context, id int) (string, error) {
						servers["shard1"].Delay(0)
						mu.Lock()
						running++
						most = max(most, running)
						mu.Unlock()
						time.Sleep(10 * time.Second)
						mu.Lock()
						running--
						mu.Unlock()
						return fmt.Sprint("up", id), nil
					},
				})
				ids := upTo(100)
				servers["shard1"].Delay(time.Second)
				values, err := read(t.Context(), c, ids)
				require.NoError(t, err)
				require.Equal(t, goods("up", ids...), values)
				require.Equal(t, 16, most)
			})
		})
	}
}

// Restorations of a collection that a slow server has held up share the limit too.
func TestRun_RestoresNoMoreAtOnceIfAServerIsSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rdb, servers := shards(t, 2)
		var mu sync.Mutex
		running, most := 0, 0
		lists, err := collection.NewRecent(rdb, collection.RecentSpec[int, string]{
			Key: "lists:{id}", TTL: time.Hour, LeaseTTL: time.Minute, Len: 3,
			Up: func(_ context.Context, id int) ([]string, error) {
				servers["shard1"].Delay(0)
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				time.Sleep(10 * time.Second)
				mu.Lock()
				running--
				mu.Unlock()
				return []string{fmt.Sprint("up", id)}, nil
			},
		})
		require.NoError(t, err)
		defer func() { require.NoError(t, lists.Close(context.Background())) }()
		ids := upTo(200)
		servers["shard1"].Delay(time.Second)
		var b batch.Batch
		values := batch.GetMany(&b, lists, ids)
		require.NoError(t, b.Run(t.Context()))
		got, err := values.Get()
		require.NoError(t, err)
		require.Len(t, got, len(ids))
		for id, list := range got {
			require.Equal(t, []string{fmt.Sprint("up", id)}, list)
		}
		require.Equal(t, 64, most)
	})
}
