package sizes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// A warehouse is an UpMany that counts what it is asked for. It is safe for concurrent
// use.
type warehouse struct {
	mu     sync.Mutex
	keys   map[int]int // guarded by mu: how often each was loaded
	most   int         // guarded by mu: keys of one call
	calls  int         // guarded by mu
	inside int         // guarded by mu: calls under way
	atOnce int         // guarded by mu: the most of them
	takes  time.Duration
	during func() // called within each call; may be nil
}

func (w *warehouse) upMany(ctx context.Context, ids []int) (map[int]string, error) {
	w.mu.Lock()
	if w.keys == nil {
		w.keys = map[int]int{}
	}
	for _, id := range ids {
		w.keys[id]++
	}
	w.calls++
	w.inside++
	w.most, w.atOnce = max(w.most, len(ids)), max(w.atOnce, w.inside)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.inside--
	}()
	if w.during != nil {
		w.during()
	}
	time.Sleep(w.takes)
	return goods("up", ids...), ctx.Err()
}

// now returns a function that calls look at a few of the calls that load n keys.
func now(n int, look func()) func() {
	var calls atomic.Int64
	return func() {
		if calls.Add(1)%max(int64(n)/5000, 1) == 0 {
			look()
		}
	}
}

// loaded requires that each of so many keys was loaded once.
func (w *warehouse) loaded(t *testing.T, n int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Len(t, w.keys, n)
	for id, times := range w.keys {
		require.Equal(t, 1, times, "key %d", id)
	}
}

// stores requires that a cache has the values of so many keys in Redis.
func stores(t *testing.T, c *cache, n int, word string) {
	t.Helper()
	values, err := c.LookupMany(t.Context(), numbers(0, n))
	require.NoError(t, err)
	require.True(t, maps.Equal(goods(word, numbers(0, n)...), values), "%d of %d", len(values), n)
}

// healthy requires that nothing went wrong on the way to Redis.
func healthy(t *testing.T, c *cache) {
	t.Helper()
	s := c.Stats()
	require.Equal(t, cachex.Stats{}, cachex.Stats{
		RedisFailures: s.RedisFailures, StoreFailures: s.StoreFailures, Fenced: s.Fenced, Bypasses: s.Bypasses,
	})
}

func TestGetMany_OfMoreThanMaxKeysIsSeveralCallsOfUpMany(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		w := &warehouse{takes: time.Second}
		c := newCache(t, rdb, spec{MaxKeys: 10, UpMany: w.upMany})
		keys := numbers(0, 95)
		keys = append(keys[:50:50], append([]int{3, 3, 49}, keys[50:]...)...) // some come twice
		began := time.Now()
		values, err := c.GetMany(t.Context(), keys)
		require.NoError(t, err)
		require.Equal(t, goods("up", numbers(0, 95)...), values)
		require.Equal(t, 3*time.Second, time.Since(began), "ten calls, four at a time")
		require.Equal(t, []int{10, 10, 4}, []int{w.calls, w.most, w.atOnce})
		w.loaded(t, 95)
		stores(t, c, 95, "up")
		values, err = c.GetMany(t.Context(), keys)
		require.NoError(t, err)
		require.Len(t, values, 95)
		w.loaded(t, 95)
	})
}

func TestGetMany_OfManyKeysNamesTheFirstOneThatFailed(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		var failing atomic.Pointer[[]int]
		fail := func(ids ...int) { failing.Store(&ids) }
		c := newCache(t, rdb, spec{Key: "k:{id}", MaxKeys: 10, UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
			values := goods("up", ids...)
			var err error
			for _, id := range *failing.Load() {
				if _, ok := values[id]; ok {
					err = errSource
					delete(values, id)
				}
			}
			return values, err
		}})
		for range 20 { // chunks are asked for in an order at random
			fail(77, 41, 48)
			values, err := c.GetMany(t.Context(), numbers(0, 100))
			require.EqualError(t, err, "cachex: getmany k:41: "+errSource.Error())
			require.Len(t, values, 97)
			require.NoError(t, c.Delete(t.Context(), numbers(0, 100)...))
		}
		fail()
		ctx, cancel := context.WithCancelCause(t.Context())
		var stop sync.Once
		slow := newCache(t, rdb, spec{Key: "slow:{id}", MaxKeys: 10, UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
			stop.Do(func() { cancel(errors.New("enough")) })
			time.Sleep(time.Second)
			return goods("up", ids...), nil
		}})
		_, err := slow.GetMany(ctx, numbers(0, 100))
		require.EqualError(t, err, "cachex: getmany slow:0: enough")
	})
}

// Without UpMany, Up is called for 16 keys at a time, however many chunks they are in.
func TestGetMany_OfManyKeysWithUpAloneCallsItForAFewAtATime(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{0, 1, 3, 10} {
		redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
			var inside, most atomic.Int64
			c := newCache(t, rdb, spec{MaxKeys: 10, MaxLoads: limit, Up: func(_ context.Context, id int) (string, error) {
				now := inside.Add(1)
				defer inside.Add(-1)
				for seen := most.Load(); seen < now && !most.CompareAndSwap(seen, now); {
					seen = most.Load()
				}
				time.Sleep(time.Second)
				return goods("up", id)[id], nil
			}})
			values, err := c.GetMany(t.Context(), numbers(0, 64))
			require.NoError(t, err)
			require.Equal(t, goods("up", numbers(0, 64)...), values)
			want := limit
			if limit == 0 {
				want = 16
			}
			require.LessOrEqual(t, most.Load(), int64(want))
			require.Greater(t, 2*most.Load(), int64(want))
		})
	}
}

// A Redis that takes a third of a second to answer is slow and not away. A limit for all round
// trips of a call made it pass for one that does not answer: everything was loaded, and
// nothing stored.
func TestManyKeys_AreStoredHoweverManyRoundTripsTheyTake(t *testing.T) {
	t.Parallel()
	const n = 2500 // five round trips, which take longer together than one may
	for _, maxKeys := range []int{1000, n} {
		for _, row := range []struct {
			name string
			call func(t *testing.T, c *cache)
		}{
			{"GetMany", func(t *testing.T, c *cache) {
				values, err := c.GetMany(t.Context(), numbers(0, n))
				require.NoError(t, err)
				require.True(t, maps.Equal(goods("up", numbers(0, n)...), values))
			}},
			{"batch", func(t *testing.T, c *cache) {
				var b batch.Batch
				all := batch.GetMany(&b, c, numbers(0, n))
				require.NoError(t, b.Run(t.Context()))
				values, err := all.Get()
				require.NoError(t, err)
				require.True(t, maps.Equal(goods("up", numbers(0, n)...), values))
			}},
			{"SetMany", func(t *testing.T, c *cache) {
				require.NoError(t, c.SetMany(t.Context(), goods("up", numbers(0, n)...)))
			}},
		} {
			t.Run(fmt.Sprint(row.name, " by ", maxKeys), func(t *testing.T) {
				t.Parallel()
				redistest.Bubble(t, func(t *testing.T, plain *redis.Client) {
					rdb := slowed(t, plain, 300*time.Millisecond)
					w := &warehouse{takes: time.Second}
					persisted := map[int]string{}
					s := spec{
						Key: "k:{id}", LeaseTTL: time.Second, MaxKeys: maxKeys, UpMany: w.upMany,
						Down: func(context.Context, int, string) error { return errors.New("DownMany is there") },
						DownMany: func(_ context.Context, values map[int]string) error {
							require.LessOrEqual(t, len(values), maxKeys)
							time.Sleep(time.Second)
							maps.Copy(persisted, values)
							return nil
						},
					}
					c := newCache(t, rdb, s)
					row.call(t, c)
					healthy(t, c)
					if row.name == "SetMany" {
						require.Len(t, persisted, n)
					} else {
						w.loaded(t, n)
					}
					stores(t, newCache(t, plain, s), n, "up")
				})
			})
		}
	}
}

// The leases of the first round trip would run out during the others.
func TestManyKeys_KeepTheirLeasesFromWhenTheyAreGranted(t *testing.T) {
	t.Parallel()
	const n = 1500 // three round trips, which take longer together than a lease holds
	redistest.Bubble(t, func(t *testing.T, plain *redis.Client) {
		for _, s := range []*script.Script{script.Acquire, script.Extend, script.Store} {
			require.NoError(t, plain.ScriptLoad(t.Context(), s.Source()).Err())
		}
		rdb := slowed(t, plain, 40*time.Millisecond)
		w := &warehouse{}
		s := spec{
			Key: "k:{id}", MaxKeys: n, LeaseTTL: 100 * time.Millisecond, UpMany: w.upMany,
			Down:     func(context.Context, int, string) error { return errors.New("DownMany is there") },
			DownMany: func(context.Context, map[int]string) error { return nil },
		}
		c := newCache(t, rdb, s)
		_, err := c.GetMany(t.Context(), numbers(0, n))
		require.NoError(t, err)
		healthy(t, c)
		w.loaded(t, n)
		fast := newCache(t, plain, s)
		stores(t, fast, n, "up")

		require.NoError(t, c.SetMany(t.Context(), goods("set", numbers(0, n)...)))
		stores(t, fast, n, "set")
	})
}

// Many caches of one batch share their round trips, which are many then.
func TestBatchOfManyCaches_StoresWhatItLoadsHoweverManyRoundTripsItTakes(t *testing.T) {
	t.Parallel()
	const caches, n = 10, 300
	redistest.Bubble(t, func(t *testing.T, plain *redis.Client) {
		rdb := slowed(t, plain, 300*time.Millisecond)
		var b batch.Batch
		var all []*batch.Value[map[int]string]
		var cs []*cache
		ws := make([]warehouse, caches)
		for i := range caches {
			cs = append(cs, newCache(t, rdb, spec{Key: fmt.Sprint("k", i, ":{id}"), LeaseTTL: time.Second, UpMany: ws[i].upMany}))
			all = append(all, batch.GetMany(&b, cs[i], numbers(0, n)))
		}
		require.NoError(t, b.Run(t.Context()))
		for i := range caches {
			values, err := all[i].Get()
			require.NoError(t, err)
			require.Equal(t, goods("up", numbers(0, n)...), values)
			ws[i].loaded(t, n)
			stores(t, cs[i], n, "up")
		}
	})
}

// mostBeside is how much memory a call may need beside its keys and its result.
const mostBeside = 64 << 20

// beside returns how much memory call needs beside what it returns, by the heap that is
// in use when look is called in it.
func beside(call func(look func()) (result any)) uint64 {
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most := inUse(), uint64(0)
	var mu sync.Mutex
	result := call(func() {
		mu.Lock()
		defer mu.Unlock()
		most = max(most, inUse())
	})
	after := inUse()
	runtime.KeepAlive(result)
	return most - min(most, before+(after-min(after, before)))
}

// Two processes warm up the same keys, with a Redis that is far away: each key is loaded
// once, all are stored, and neither needs much memory.
func TestGetMany_OfManyMissingKeysFromTwoProcesses(t *testing.T) {
	sizes := []int{10_000, 100_000}      // not parallel: it looks at the heap
	if os.Getenv("CACHEX_SIZES") != "" { // which takes minutes
		sizes = append(sizes, 1_000_000)
	}
	for _, n := range sizes {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			server := redistest.Start(t)
			proxy := redistest.NewProxy(t, server.Addr())
			proxy.Delay(25 * time.Millisecond)
			far := func() *redis.Client {
				return server.Client(func(o *redis.Options) { o.Addr, o.ReadTimeout = proxy.Addr(), patience })
			}
			w := new(warehouse)
			s := spec{Key: "a-key-as-long-as-most-are-today:{id}", UpMany: w.upMany}
			one, other := newCache(t, far(), s), newCache(t, far(), s)
			keys := numbers(0, n)
			w.keys = make(map[int]int, n) // and so it is not beside
			needs := beside(func(f func()) any {
				w.during = now(n, f)
				results := make([]map[int]string, 2)
				var both sync.WaitGroup
				for i, c := range []*cache{one, other} {
					both.Go(func() {
						values, err := c.GetMany(t.Context(), keys)
						if err == nil {
							results[i] = values
						}
						f()
					})
				}
				both.Wait()
				return results
			})
			w.loaded(t, n)
			require.LessOrEqual(t, w.most, 1000)
			for _, c := range []*cache{one, other} {
				healthy(t, c)
			}
			near := newCache(t, server.Client(nil), s)
			looked := beside(func(f func()) any {
				values, err := near.LookupMany(t.Context(), keys)
				require.NoError(t, err)
				f()
				require.Len(t, values, n)
				return values
			})
			t.Logf("beside their results, two GetMany of %d keys needed %d KB, and LookupMany %d KB", n, needs>>10, looked>>10)
			if !raceEnabled {
				require.Less(t, needs, uint64(mostBeside))
			}
		})
	}
}
