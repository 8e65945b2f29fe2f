package cachex

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/redistest"
)

// placeOf returns the hash and the field of a packed entry.
func placeOf[K comparable, V any](c *Cache[K, V], key K) (hash, field string) {
	at := c.Key(key)
	i := strings.LastIndexByte(at, ' ')
	return at[:i], at[i+1:]
}

func TestPacked_EntriesOfOneHashHaveTheirOwnLifetimes(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		loads := map[int]int{}
		c := newCache(t, rdb, Spec[int, int]{
			Packed: 100, TTL: time.Hour, Jitter: NoJitter,
			TTLFor: func(key, _ int) time.Duration { return time.Duration(key) * time.Minute },
			Up:     func(_ context.Context, key int) (int, error) { loads[key]++; return key, nil },
		})
		hash, _ := placeOf(c, 1)
		get := func(key, want int) {
			t.Helper()
			v, err := c.Get(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, key, v)
			require.Equal(t, want, loads[key], "loads of %d", key)
		}
		for key := 1; key <= 3; key++ {
			get(key, 1)
		}
		require.EqualValues(t, 3, rdb.HLen(t.Context(), hash).Val())
		time.Sleep(time.Minute + time.Second)
		_, there, err := c.Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.False(t, there)
		get(1, 2)
		get(2, 1)
		get(3, 1)
		time.Sleep(90 * time.Second)
		require.EqualValues(t, 1, rdb.Exists(t.Context(), hash).Val(), "one of the entries has not ended")
		time.Sleep(time.Minute)
		require.Zero(t, rdb.Exists(t.Context(), hash).Val(), "all of them have")
	})
}

func TestPacked_DeleteFencesALoad(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		began, end := make(chan struct{}), make(chan struct{})
		c := newCache(t, rdb, Spec[int, string]{
			Packed: 100,
			Up: func(_ context.Context, key int) (string, error) {
				close(began)
				<-end
				return "old", nil
			},
		})
		other := newCache(t, again(t, rdb), Spec[int, string]{Packed: 100, Key: c.keyed.core.settings.key})
		require.NoError(t, other.Set(t.Context(), 2, "beside"))
		done := make(chan error)
		go func() {
			_, err := c.Get(t.Context(), 1)
			done <- err
		}()
		receive(t, began)
		require.NoError(t, other.Delete(t.Context(), 1))
		close(end)
		require.NoError(t, receive(t, done))
		_, there, err := other.Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.False(t, there, "it was loaded before the deletion")
		hash, field := placeOf(c, 1)
		require.False(t, rdb.HExists(t.Context(), hash, field).Val())
		v, there, err := other.Lookup(t.Context(), 2)
		require.NoError(t, err)
		require.True(t, there)
		require.Equal(t, "beside", v)
	})
}

func TestPacked_GetManySendsOneCommandPerHash(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, plain *redis.Client) {
		rdb, commands := counted(t, plain)
		c := newCache(t, rdb, Spec[int, int]{Packed: 10})
		values := map[int]int{}
		for i := range 30 {
			values[i] = i * i
		}
		require.NoError(t, c.SetMany(t.Context(), values))
		commands.Reset()
		keys := []int{29, 3, 12, 4, 21, 25, 99, 5}
		want := map[int]int{29: 841, 3: 9, 12: 144, 4: 16, 21: 441, 25: 625, 5: 25}
		got, err := c.GetMany(t.Context(), keys)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, 4, commands.Count("hmget"), "of three hashes, and one that is not there")
		require.Equal(t, 1, commands.RoundTrips())

		commands.Reset()
		var b batch.Batch
		one, more := batch.Get(&b, c, 3), batch.GetMany(&b, c, keys)
		require.NoError(t, b.Run(t.Context()))
		v, err := one.Get()
		require.NoError(t, err)
		require.Equal(t, 9, v)
		got, err = more.Get()
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.Equal(t, 1, commands.RoundTrips())
		require.Zero(t, commands.Count("get", "hget"))
	})
}

func TestPacked_ClearRemovesOnlyHashesOfItsCache(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		key := redistest.Key(t)
		ranges := newCache(t, rdb, Spec[int, int]{Key: key + ":{id}", Packed: 10})
		hashed := newCache(t, rdb, Spec[int, int]{Key: key + ":{id}", Packed: 10, Expected: 100})
		plain := newCache(t, rdb, Spec[int, int]{Key: key + ":{id}"})
		for i := range 25 {
			require.NoError(t, ranges.Set(t.Context(), i, 1))
			require.NoError(t, hashed.Set(t.Context(), i, 2))
			require.NoError(t, plain.Set(t.Context(), i, 3))
		}
		for _, c := range []*Cache[int, int]{ranges, hashed, plain} {
			n, err := c.Clear(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 25, n)
			_, there, err := c.Lookup(t.Context(), 7)
			require.NoError(t, err)
			require.False(t, there)
			if c != plain {
				v, _, err := plain.Lookup(t.Context(), 7)
				require.NoError(t, err)
				require.Equal(t, 3, v)
			}
		}
	})
}

func TestPacked_GarbageIsReplaced(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		var loads atomic.Int64
		c := newCache(t, rdb, Spec[int, string]{
			Packed: 100, Up: func(context.Context, int) (string, error) { loads.Add(1); return "up", nil },
		})
		ctx := t.Context()
		hash, field := placeOf(c, 1)
		require.NoError(t, c.Set(ctx, 2, "beside"))
		_, besides := placeOf(c, 2)
		moved := rdb.HGet(ctx, hash, besides).Val()
		for what, throw := range map[string]func() error{
			"text":                  func() error { return rdb.HSet(ctx, hash, field, "hello").Err() },
			"nothing":               func() error { return rdb.HSet(ctx, hash, field, "").Err() },
			"a number":              func() error { return rdb.HSet(ctx, hash, field, 42).Err() },
			"a long one":            func() error { return rdb.HSet(ctx, hash, field, strings.Repeat("\xff", 100)).Err() },
			"the entry of another":  func() error { return rdb.HSet(ctx, hash, field, moved).Err() },
			"an entry that is cut":  func() error { return rdb.HSet(ctx, hash, field, moved[:6]).Err() },
			"an entry that is long": func() error { return rdb.HSet(ctx, hash, field, moved+"!").Err() },
			"a string for the hash": func() error { return rdb.Set(ctx, hash, "hello", 0).Err() },
		} {
			require.NoError(t, throw(), what)
			before := loads.Load()
			_, there, err := c.Lookup(ctx, 1)
			require.NoError(t, err, what)
			require.False(t, there, what)
			for range 2 {
				v, err := c.Get(ctx, 1)
				require.NoError(t, err, what)
				require.Equal(t, "up", v, what)
			}
			require.Equal(t, before+1, loads.Load(), what)
			require.Positive(t, rdb.PTTL(ctx, hash).Val(), what)
		}
		require.NoError(t, rdb.Set(ctx, hash, "hello", 0).Err())
		require.NoError(t, c.Delete(ctx, 1), "what is no hash has no entry to delete")
		require.NoError(t, c.Delete(ctx, 1, 2))
		values, err := c.LookupMany(ctx, []int{1, 2})
		require.NoError(t, err)
		require.Empty(t, values)
	})
}

func TestPacked_RefreshEveryLoadsOncePerPeriod(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		var loads atomic.Int64
		spec := Spec[string, int64]{
			Key: "k:{name}", Packed: 10, Expected: 100, TTL: 3 * time.Second,
			Up: func(context.Context, string) (int64, error) { return loads.Add(1), nil },
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range 2 {
			c := newCache(t, again(t, rdb), spec)
			go func() { _ = c.RefreshEvery(ctx, time.Second, "ann") }()
		}
		synctest.Wait()
		time.Sleep(4500 * time.Millisecond)
		synctest.Wait()
		require.EqualValues(t, 5, loads.Load())
		v, there, err := newCache(t, again(t, rdb), spec).Lookup(t.Context(), "ann")
		require.NoError(t, err)
		require.True(t, there)
		require.EqualValues(t, 5, v)
		cancel()
		synctest.Wait()
	})
}

func TestPacked_WorksOnAClusterAndThroughAProxy(t *testing.T) {
	t.Parallel()
	for name, client := range map[string]func(t *testing.T) redis.UniversalClient{
		"cluster": func(t *testing.T) redis.UniversalClient { return redistest.StartCluster(t, 2).Client(nil) },
		"twemproxy": func(t *testing.T) redis.UniversalClient {
			return redistest.StartTwemproxy(t, patience, redistest.Start(t).Addr(), redistest.Start(t).Addr())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb, ctx := client(t), t.Context()
			var loads atomic.Int64
			type user struct{ Org, ID int }
			c := newCache(t, rdb, Spec[user, int]{
				Key: "org:{{org}}:user:{id}", Packed: 10,
				UpMany: func(_ context.Context, keys []user) (map[user]int, error) {
					values := make(map[user]int)
					for _, k := range keys {
						loads.Add(1)
						values[k] = k.Org*1000 + k.ID
					}
					return values, nil
				},
			})
			var keys []user
			want := map[user]int{}
			for i := range 100 {
				k := user{i % 7, i}
				keys, want[k] = append(keys, k), k.Org*1000+k.ID
			}
			for range 3 {
				got, err := c.GetMany(ctx, keys)
				require.NoError(t, err)
				require.Equal(t, want, got)
			}
			require.EqualValues(t, 100, loads.Load())
			require.NoError(t, c.Delete(ctx, keys[:50]...))
			_, err := c.GetMany(ctx, keys)
			require.NoError(t, err)
			require.EqualValues(t, 150, loads.Load())
			require.NoError(t, c.Expire(ctx, keys[0]))
			v, err := c.Get(ctx, keys[0])
			require.NoError(t, err)
			require.Equal(t, want[keys[0]], v)
			require.EqualValues(t, 151, loads.Load())
			if name == "cluster" {
				n, err := c.Clear(ctx)
				require.NoError(t, err)
				require.EqualValues(t, 100, n)
			}
		})
	}
}

// A hash of large values makes one HMGET take the server tens of milliseconds.
func TestPacked_RefusesAValueThatIsTooLarge(t *testing.T) {
	t.Parallel()
	const most = 16_000
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		key := redistest.Key(t)
		c := newCache(t, rdb, Spec[int, string]{
			Key: key + ":{id}", Packed: 100,
			UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
				found := map[int]string{}
				for _, id := range ids {
					found[id] = strings.Repeat("x", most+id)
				}
				return found, nil
			},
		})
		err := c.Set(t.Context(), 1, strings.Repeat("x", most+1))
		require.ErrorIs(t, err, codec.ErrTooLarge)
		require.ErrorContains(t, err, "the value has 16001 bytes, a packed one may have 16000: set Spec.Packed to 0")
		got, err := c.GetMany(t.Context(), []int{0, 1})
		require.NoError(t, err)
		require.Len(t, got, 2, "it is returned all the same")
		stored, err := c.LookupMany(t.Context(), []int{0, 1})
		require.NoError(t, err)
		require.Len(t, stored, 1)
		require.Len(t, stored[0], most)
		require.EqualValues(t, 1, c.Stats().StoreFailures)
		require.Zero(t, c.Stats().RedisFailures)
		v, err := c.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Len(t, v, most+1)
	})
}
