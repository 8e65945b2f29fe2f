package batch_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
)

// A load that takes several times as long as its leases hold is stored, though a server
// that has some of these is silent all the time.
func TestGetMany_RenewsTheLeasesOfOtherServersWhileOneIsSilent(t *testing.T) {
	t.Parallel()
	for name, read := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rdb, servers := shards(t, 3)
				l := new(loads)
				c := newCache(t, rdb, "renewed", cachex.Spec[int, string]{
					TTL: time.Hour, LeaseTTL: 3 * time.Second,
					UpMany: func(ctx context.Context, ids []int) (map[int]string, error) {
						if len(l.calls) == 0 {
							servers["shard1"].Delay(25 * time.Second)
							time.Sleep(20 * time.Second)
							servers["shard1"].Delay(0)
						}
						return l.upMany(ctx, ids)
					},
				})
				ids := upTo(60)
				slow := byShard(t, rdb, c, ids)["shard1"]
				for range 2 {
					values, err := read(t.Context(), c, ids)
					require.NoError(t, err)
					require.Equal(t, goods("up", ids...), values)
				}
				require.Equal(t, [][]int{ids, slow}, l.calls, "each lease of the silent server is lost, and no other")
				require.EqualValues(t, len(slow), c.Stats().Fenced)
			})
		})
	}
}

// A server that is silent when values are to be stored holds up the callers of its own
// keys only.
func TestGetMany_EndsTheFlightsOfOtherServersWhileOneDoesNotStore(t *testing.T) {
	t.Parallel()
	for name, read := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rdb, servers := shards(t, 3)
				began, goOn := make(chan []int, 1), make(chan struct{})
				c := newCache(t, rdb, "stored", cachex.Spec[int, string]{
					TTL: time.Hour, LeaseTTL: time.Minute,
					UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
						began <- ids
						<-goOn
						return goods("up", ids...), nil
					},
				})
				ids := upTo(60)
				slow := byShard(t, rdb, c, ids)["shard1"]
				var all sync.WaitGroup
				all.Go(func() {
					values, err := read(t.Context(), c, ids)
					if err != nil || len(values) != len(ids) {
						t.Errorf("%v, %v", values, err)
					}
				})
				require.Equal(t, ids, <-began)
				took := make([]time.Duration, len(ids))
				start := time.Now()
				for _, id := range ids {
					all.Go(func() {
						if v, err := c.Get(t.Context(), id); err != nil || v != goods("up", id)[id] {
							t.Errorf("%q, %v", v, err)
						}
						took[id] = time.Since(start)
					})
				}
				synctest.Wait() // all have joined
				servers["shard1"].Delay(10 * time.Second)
				close(goOn)
				all.Wait()
				for _, id := range ids {
					if slices.Contains(slow, id) {
						require.GreaterOrEqual(t, took[id], 10*time.Second)
					} else {
						require.Less(t, took[id], time.Second)
					}
				}
				require.Zero(t, c.Stats().Fenced)
			})
		})
	}
}

// Of a Cluster, one master stops between lease and store. The lease has an hour: nothing
// but the stores goes on.
func TestGetMany_StoresOnHealthyMastersWhileOneIsStopped(t *testing.T) {
	t.Parallel()
	cluster, rdb := threeMasters(t)
	for name, read := range ways {
		began, goOn := make(chan []int, 100), make(chan struct{})
		c := newCache(t, rdb, "stopped", cachex.Spec[int, string]{
			LeaseTTL: time.Hour,
			UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
				began <- ids
				<-goOn
				return goods("up", ids...), nil
			},
		})
		ids := upTo(60)
		stopped := cluster.Owner(c.Key(0))
		healthy := slices.DeleteFunc(slices.Clone(ids), func(id int) bool {
			node, err := rdb.MasterForKey(t.Context(), c.Key(id))
			require.NoError(t, err)
			return node.Options().Addr == stopped.Addr()
		})
		over := make(chan error, 1)
		go func() {
			_, err := read(t.Context(), c, ids)
			over <- err
		}()
		for asked := 0; asked < len(ids); { // on a busy machine, a master may be late
			select {
			case some := <-began:
				asked += len(some)
			case err := <-over:
				require.Fail(t, "the call ended before its loads", "%s: %v", name, err)
			}
		}
		stopped.Stop()
		close(goOn)
		// They join the flights of the call, or read what is stored.
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		values, err := c.GetMany(ctx, healthy)
		cancel()
		require.NoError(t, err, name)
		require.Equal(t, goods("up", healthy...), values, name)
		select {
		case err := <-over:
			require.Fail(t, "the call ended while a master was silent", "%s: %v", name, err)
		default:
		}
		stopped.Cont()
		require.NoError(t, <-over, name)
		values, err = c.LookupMany(t.Context(), ids)
		require.NoError(t, err, name)
		require.Equal(t, goods("up", ids...), values, name)
		require.Zero(t, c.Stats().Fenced, name)
	}
}
