package counter_test

import (
	"context"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestAdd_WithoutUpBeginsAtZero(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{})
		n, err := c.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Zero(t, n)
		for want := int64(1); want <= 3; want++ {
			for _, id := range []int{1, 2} {
				n, err := c.Inc(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, want, n)
			}
		}
		n, err = c.Add(t.Context(), 2, -5)
		require.NoError(t, err)
		require.Equal(t, int64(-2), n)
		counts, err := c.GetMany(t.Context(), []int{1, 2, 3})
		require.NoError(t, err)
		require.Equal(t, map[int]int64{1: 3, 2: -2, 3: 0}, counts)
	})
}

// crowd returns the number of concurrent clients and of counts for each. The
// embedded server gets fewer, since its scripts are slow.
func crowd(t *testing.T) (clients, each int) {
	if strings.HasSuffix(t.Name(), "embedded") {
		return 2, 10
	}
	return 4, 50
}

func TestInc_RestoresOnceAndReturnsDistinctCounts(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		clients, each := crowd(t)
		var loads atomic.Int64
		var asking sync.WaitGroup
		asking.Add(clients * each)
		spec := counter.Spec[int]{
			Key: redistest.Key(t) + ":{id}", LeaseTTL: patience, TTL: 2 * patience,
			Up: func(context.Context, int) (int64, error) {
				loads.Add(1)
				asking.Wait() // a slow source, which all clients wait for
				return 1000, nil
			},
		}
		var mu sync.Mutex
		seen := map[int64]bool{}
		var wg sync.WaitGroup
		for range clients {
			opts := *rdb.Options()
			opts.PushNotificationProcessor = nil
			own := redis.NewClient(&opts)
			t.Cleanup(func() { _ = own.Close() })
			c := newCounter(t, own, spec)
			for range each {
				wg.Go(func() {
					asking.Done()
					n, err := c.Inc(t.Context(), 7)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					seen[n] = true
				})
			}
		}
		wg.Wait()
		require.Len(t, seen, clients*each)
		all := slices.Sorted(maps.Keys(seen))
		require.Equal(t, int64(1001), all[0])
		require.Equal(t, int64(1000+clients*each), all[len(all)-1])
		require.Equal(t, int64(1), loads.Load())
	})
}

func TestAdd_IsExactToTheLimitsOfInt64(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{})
		edges := []int64{
			0, 1, -1, 9, 10, 9_999_999_999, 10_000_000_000, -9_999_999_999, -10_000_000_000, 10_000_000_001,
			1 << 53, 1<<53 + 1, -(1<<53 + 1), math.MaxInt64, math.MaxInt64 - 1, math.MinInt64, math.MinInt64 + 1,
			math.MaxInt64 / 2, math.MinInt64 / 2, 922337203_6854775807, 922337203_0000000000, -922337203_0000000000,
		}
		for _, a := range edges {
			for _, b := range edges {
				require.NoError(t, c.Set(t.Context(), 1, a))
				n, err := c.Add(t.Context(), 1, b)
				sum := a + b
				if overflows := (sum > a) != (b > 0) && b != 0; overflows {
					require.ErrorIs(t, err, counter.ErrOverflow, "%d + %d", a, b)
					sum = a
				} else {
					require.NoError(t, err, "%d + %d", a, b)
					require.Equal(t, sum, n, "%d + %d", a, b)
				}
				n, err = c.Get(t.Context(), 1)
				require.NoError(t, err)
				require.Equal(t, sum, n, "%d + %d", a, b)
				require.NoError(t, c.Delete(t.Context(), 2))
				n, err = c.Add(t.Context(), 2, b)
				require.NoError(t, err)
				require.Equal(t, b, n)
			}
		}
	})
}

func TestAdd_RestartsTheTTL(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{TTL: time.Hour, Up: func(context.Context, int) (int64, error) { return 5, nil }})
		_, err := c.Inc(t.Context(), 1)
		require.NoError(t, err)
		require.NoError(t, rdb.PExpire(t.Context(), c.Key(1), time.Minute).Err())
		_, err = c.Inc(t.Context(), 1)
		require.NoError(t, err)
		require.Greater(t, rdb.PTTL(t.Context(), c.Key(1)).Val(), 59*time.Minute)
		_, err = c.Get(t.Context(), 1)
		require.NoError(t, err)
		forever := newCounter(t, rdb, counter.Spec[int]{Key: redistest.Key(t) + ":forever:{id}", TTL: cachex.Forever})
		for range 2 {
			_, err = forever.Inc(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, time.Duration(-1), rdb.PTTL(t.Context(), forever.Key(1)).Val())
		}
	})
}

func TestAddOnce_AddsOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{Up: func(context.Context, int) (int64, error) { return 100, nil }})
		for range 3 {
			n, err := c.AddOnce(t.Context(), 1, 5, "payment 17")
			require.NoError(t, err)
			require.Equal(t, int64(105), n)
		}
		n, err := c.AddOnce(t.Context(), 1, 5, "payment 18")
		require.NoError(t, err)
		require.Equal(t, int64(110), n)
		n, err = c.AddOnce(t.Context(), 1, 5, "payment 17")
		require.NoError(t, err)
		require.Equal(t, int64(105), n, "what the count was then")
		n, err = c.AddOnce(t.Context(), 2, 5, "payment 17")
		require.NoError(t, err)
		require.Equal(t, int64(105), n, "operations of another count are others")
		_, err = c.AddOnce(t.Context(), 1, 5, "")
		require.EqualError(t, err, "cachex: addonce "+c.Key(1)+": opID is empty")
	})
}

func TestDown_PersistsAdditions(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		var mu sync.Mutex
		rows := map[int]int64{1: 1000}
		spec := counter.Spec[int]{
			Key: redistest.Key(t) + ":{id}", FlushEvery: patience * 100, // no flush except those of the test
			Up: func(_ context.Context, id int) (int64, error) {
				mu.Lock()
				defer mu.Unlock()
				return rows[id], nil
			},
			Down: func(_ context.Context, f counter.Flush[int]) error {
				mu.Lock()
				defer mu.Unlock()
				for id, delta := range f.Deltas {
					rows[id] += delta
				}
				for id, n := range f.Values {
					rows[id] = n
				}
				return nil
			},
		}
		c := newCounter(t, rdb, spec)
		for i := range int64(10) {
			n, err := c.Inc(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, 1001+i, n)
			n, err = c.Add(t.Context(), 2, 2)
			require.NoError(t, err)
			require.Equal(t, 2+2*i, n)
		}
		require.NoError(t, c.Delete(t.Context(), 1, 2))
		counts, err := c.GetMany(t.Context(), []int{1, 2})
		require.NoError(t, err)
		require.Equal(t, map[int]int64{1: 1010, 2: 20}, counts)
		require.NoError(t, c.Flush(t.Context()))
		mu.Lock()
		require.Equal(t, map[int]int64{1: 1010, 2: 20}, rows)
		mu.Unlock()
		require.NoError(t, c.Set(t.Context(), 1, 7))
		n, err := c.Inc(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, int64(8), n)
		require.NoError(t, c.Delete(t.Context(), 1))
		require.NoError(t, c.Set(t.Context(), 1, 70))
		require.NoError(t, c.Flush(t.Context()))
		require.NoError(t, c.Delete(t.Context(), 1))
		n, err = c.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, int64(70), n)
		mu.Lock()
		require.Equal(t, int64(70), rows[1])
		mu.Unlock()
		removed, err := c.Clear(t.Context())
		require.NoError(t, err)
		require.Equal(t, int64(2), removed)
	})
}

func TestBuffer_SendsSums(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for name, spec := range map[string]counter.Spec[int]{
			"plain": {},
			"up":    {Up: func(_ context.Context, id int) (int64, error) { return int64(id) * 100, nil }},
		} {
			spec.Key = redistest.Key(t) + ":" + name + ":{id}"
			c := newCounter(t, rdb, spec)
			b, err := counter.NewBuffer(c, counter.BufferOptions{})
			require.NoError(t, err)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for i := range 1000 {
						if err := b.Inc(i % 10); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			require.NoError(t, c.Flush(t.Context()))
			for id := range 10 {
				n, err := c.Get(t.Context(), id)
				require.NoError(t, err)
				want := int64(800)
				if spec.Up != nil {
					want += int64(id) * 100
				}
				require.Equal(t, want, n, name+" "+strconv.Itoa(id))
			}
		}
	})
}
