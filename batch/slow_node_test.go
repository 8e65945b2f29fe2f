package batch_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/redistest"
)

// loads notes the calls of UpMany.
type loads struct {
	mu    sync.Mutex
	calls [][]int         // guarded by mu: sorted
	at    []time.Duration // guarded by mu: since began
	began time.Time       // guarded by mu
}

func (l *loads) upMany(_ context.Context, ids []int) (map[int]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls, l.at = append(l.calls, slices.Sorted(slices.Values(ids))), append(l.at, time.Since(l.began))
	return goods("up", ids...), nil
}

func (l *loads) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls, l.at, l.began = nil, nil, time.Now()
}

// shards is a Ring of servers in memory.
func shards(t *testing.T, n int) (*redis.Ring, map[string]*redistest.Memory) {
	t.Helper()
	servers := map[string]*redistest.Memory{}
	for i := range n {
		m, err := redistest.OpenMemory()
		require.NoError(t, err)
		servers[fmt.Sprint("shard", i+1)] = m
	}
	t.Cleanup(func() {
		for _, m := range servers {
			m.Close()
		}
	})
	return ring(t, servers), servers
}

// ring returns a client of servers.
func ring(t *testing.T, servers map[string]*redistest.Memory) *redis.Ring {
	addrs := map[string]string{}
	for addr := range servers {
		addrs[addr] = addr
	}
	rdb := redis.NewRing(&redis.RingOptions{Addrs: addrs, HeartbeatFrequency: math.MaxInt64, NewClient: func(o *redis.Options) *redis.Client {
		opts := servers[o.Addr].Options()
		opts.Addr, opts.ReadTimeout = o.Addr, time.Hour
		return redis.NewClient(opts)
	}})
	t.Cleanup(func() { require.NoError(t, rdb.Close()) })
	return rdb
}

// byShard returns which of ids each server has.
func byShard(t *testing.T, rdb *redis.Ring, c *cachex.Cache[int, string], ids []int) map[string][]int {
	by := map[string][]int{}
	for _, id := range ids {
		node, err := rdb.GetShardClientForKey(c.Key(id))
		require.NoError(t, err)
		by[node.Options().Addr] = append(by[node.Options().Addr], id)
	}
	return by
}

// Ways are the calls that read many keys. Each returns what became of the keys.
var ways = map[string]func(ctx context.Context, c *cachex.Cache[int, string], ids []int) (map[int]string, error){
	"GetMany": func(ctx context.Context, c *cachex.Cache[int, string], ids []int) (map[int]string, error) {
		return c.GetMany(ctx, ids)
	},
	"Batch": func(ctx context.Context, c *cachex.Cache[int, string], ids []int) (map[int]string, error) {
		var b batch.Batch
		values := batch.GetMany(&b, c, ids)
		err := b.Run(ctx)
		m, failed := values.Get()
		return m, cmp.Or(err, failed)
	},
}

func upTo(n int) (ids []int) {
	for id := range n {
		ids = append(ids, id)
	}
	return ids
}

// In a bubble, where servers that are not told to be slow answer at once.
func TestUpMany_IsOneCallOfHealthyServersAndTwoIfOneIsSlow(t *testing.T) {
	t.Parallel()
	for name, read := range ways {
		for _, warm := range []bool{false, true} { // whether GetMany reads before it asks for leases
			t.Run(fmt.Sprintf("%s, warm %v", name, warm), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { testSlowShard(t, read, warm) })
			})
		}
	}
}

func testSlowShard(t *testing.T, read func(context.Context, *cachex.Cache[int, string], []int) (map[int]string, error), warm bool) {
	rdb, servers := shards(t, 4)
	l := new(loads)
	spec := cachex.Spec[int, string]{TTL: time.Hour, LeaseTTL: time.Minute, UpMany: l.upMany}
	if warm {
		spec.StaleWhileRevalidate = time.Minute
	}
	c := newCache(t, rdb, "slow", spec)
	const n = 200
	ids := upTo(n)
	by := byShard(t, rdb, c, ids)
	require.Len(t, by, len(servers))
	get := func() time.Duration {
		l.reset()
		began := time.Now()
		values, err := read(t.Context(), c, ids)
		require.NoError(t, err)
		require.Equal(t, goods("up", ids...), values)
		return time.Since(began)
	}
	clear := func() { require.NoError(t, c.Delete(t.Context(), ids...)) }

	get()
	require.Equal(t, [][]int{ids}, l.calls, "all servers have answered: one call")
	get()
	require.Empty(t, l.calls)

	// A server that is a little slower than the others parts nothing.
	clear()
	servers["shard2"].Delay(40 * time.Millisecond)
	get()
	require.Equal(t, [][]int{ids}, l.calls)

	// One that takes much longer does not hold up the loads of what the others lack.
	servers["shard2"].Delay(0)
	clear()
	servers["shard2"].Delay(time.Second)
	get()
	servers["shard2"].Delay(0)
	slow := by["shard2"]
	others := slices.DeleteFunc(slices.Clone(ids), func(id int) bool { return slices.Contains(slow, id) })
	require.Equal(t, [][]int{others, slow}, l.calls)
	require.Equal(t, 50*time.Millisecond, l.at[0])
	require.GreaterOrEqual(t, l.at[1], time.Second)
	get()
	require.Empty(t, l.calls, "all were stored")

	// Several slow ones are loaded together.
	clear()
	servers["shard2"].Delay(time.Second)
	servers["shard3"].Delay(time.Second)
	get()
	servers["shard2"].Delay(0)
	servers["shard3"].Delay(0)
	slow = slices.Sorted(slices.Values(append(slices.Clone(slow), by["shard3"]...)))
	others = slices.DeleteFunc(slices.Clone(ids), func(id int) bool { return slices.Contains(slow, id) })
	require.Equal(t, [][]int{others, slow}, l.calls)
	get()
	require.Empty(t, l.calls)
}

// The end of ctx is the end of the wait for a slow server, and of nothing else.
func TestRun_LeavesASlowServerWhenCtxEnds(t *testing.T) {
	t.Parallel()
	for name, read := range ways {
		for _, warm := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, warm %v", name, warm), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					rdb, servers := shards(t, 2)
					l := new(loads)
					spec := cachex.Spec[int, string]{TTL: time.Hour, LeaseTTL: 10 * time.Second, UpMany: l.upMany}
					if warm {
						spec.StaleWhileRevalidate = time.Minute
					}
					c := newCache(t, rdb, "left", spec)
					ids := upTo(100)
					slow := byShard(t, rdb, c, ids)["shard1"]
					servers["shard1"].Delay(2 * time.Second)
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					l.reset()
					values, err := read(ctx, c, ids)
					require.ErrorIs(t, err, context.DeadlineExceeded)
					require.Equal(t, time.Second, time.Since(l.began))
					for _, id := range ids {
						require.Equal(t, !slices.Contains(slow, id), values[id] != "", id)
					}
					servers["shard1"].Delay(0)
					time.Sleep(time.Minute) // what is left ends
					values, err = read(t.Context(), c, ids)
					require.NoError(t, err)
					require.Equal(t, goods("up", ids...), values)
				})
			})
		}
	}
}

// What is granted late is loaded in its turn, under leases that hold.
func TestGetMany_StoresWhatASlowServerGrantsLate(t *testing.T) {
	t.Parallel()
	for name, read := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rdb, servers := shards(t, 2)
				l := new(loads)
				c := newCache(t, rdb, "late", cachex.Spec[int, string]{
					TTL: time.Hour, LeaseTTL: 3 * time.Second, MaxLoads: 1,
					UpMany: func(ctx context.Context, ids []int) (map[int]string, error) {
						servers["shard1"].Delay(0) // what is under way arrives late all the same
						time.Sleep(10 * time.Second)
						return l.upMany(ctx, ids)
					},
				})
				ids := upTo(50)
				by := byShard(t, rdb, c, ids)
				servers["shard1"].Delay(time.Second)
				values, err := read(t.Context(), c, ids)
				require.NoError(t, err)
				require.Equal(t, goods("up", ids...), values)
				require.Equal(t, [][]int{by["shard2"], by["shard1"]}, l.calls)
				_, err = read(t.Context(), c, ids)
				require.NoError(t, err)
				require.Len(t, l.calls, 2, "all were stored: no lease has run out")
			})
		})
	}
}

// A key of a slow server that another process loads needs no load here, and so waits for
// no place among MaxLoads.
func TestGetMany_KeyOfASlowServerHeldElsewhereWaitsForNoLoadHere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rdb, servers := shards(t, 2)
		spec := cachex.Spec[int, string]{Key: "held:{id}", TTL: time.Hour, LeaseTTL: time.Minute}
		elsewhere := spec
		elsewhere.Up = func(context.Context, int) (string, error) {
			time.Sleep(3 * time.Second)
			return "elsewhere", nil
		}
		began, over := make(chan []int, 10), make(chan struct{})
		spec.MaxLoads = 1
		spec.UpMany = func(_ context.Context, ids []int) (map[int]string, error) {
			began <- ids
			<-over
			return goods("up", ids...), nil
		}
		a, b := cachex.Must(cachex.New(rdb, spec)), cachex.Must(cachex.New(ring(t, servers), elsewhere))
		defer func() {
			require.NoError(t, a.Close(context.Background()))
			require.NoError(t, b.Close(context.Background()))
		}()
		ids := upTo(50)
		held := byShard(t, rdb, a, ids)["shard1"][0]
		var all sync.WaitGroup
		all.Go(func() {
			v, err := b.Get(t.Context(), held)
			if err != nil || v != "elsewhere" {
				t.Errorf("%q, %v", v, err)
			}
		})
		time.Sleep(time.Second) // b has the lease
		servers["shard1"].Delay(500 * time.Millisecond)
		want := goods("up", ids...)
		want[held] = "elsewhere"
		all.Go(func() {
			values, err := a.GetMany(t.Context(), ids)
			if err != nil {
				t.Error(err)
			}
			if len(values) != len(want) || values[held] != "elsewhere" {
				t.Errorf("%v", values)
			}
		})
		<-began // the place is taken
		servers["shard1"].Delay(0)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		v, err := a.Get(ctx, held)
		close(over)
		require.NoError(t, err, "the key waited for a place")
		require.Equal(t, "elsewhere", v)
		all.Wait()
	})
}

// A call that waits for a place among MaxLoads holds no lease: another process may have one
// free.
func TestGetMany_HoldsNoLeaseOfASlowServerWhileItWaitsForAPlace(t *testing.T) {
	t.Parallel()
	for name, read := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rdb, servers := shards(t, 2)
				spec := cachex.Spec[int, string]{Key: "yielded:{id}", TTL: time.Hour, LeaseTTL: time.Minute}
				elsewhere := spec
				elsewhere.Up = func(context.Context, int) (string, error) { return "elsewhere", nil }
				began, over := make(chan []int, 10), make(chan struct{})
				spec.MaxLoads = 1
				spec.UpMany = func(_ context.Context, ids []int) (map[int]string, error) {
					began <- ids
					<-over
					return goods("up", ids...), nil
				}
				a, b := cachex.Must(cachex.New(rdb, spec)), cachex.Must(cachex.New(ring(t, servers), elsewhere))
				defer func() {
					require.NoError(t, a.Close(context.Background()))
					require.NoError(t, b.Close(context.Background()))
				}()
				ids := upTo(50)
				slow := byShard(t, rdb, a, ids)["shard1"]
				want := goods("up", ids...)
				want[slow[0]] = "elsewhere"
				servers["shard1"].Delay(500 * time.Millisecond)
				var all sync.WaitGroup
				all.Go(func() {
					values, err := read(t.Context(), a, ids)
					if err != nil || !maps.Equal(values, want) {
						t.Errorf("%v, %v", values, err)
					}
				})
				first := <-began // the place is taken
				servers["shard1"].Delay(0)
				time.Sleep(5 * time.Second) // the leases of the others are granted
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				v, err := b.Get(ctx, slow[0])
				close(over)
				require.NoError(t, err, "a key was held that nobody loads")
				require.Equal(t, "elsewhere", v)
				all.Wait()
				require.Equal(t, ids, slices.Sorted(slices.Values(slices.Concat(first, <-began, slow[:1]))))
			})
		})
	}
}
