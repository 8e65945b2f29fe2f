package cachex

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

func TestNotFoundTTL_RemembersForExactlyItsTime(t *testing.T) {
	t.Parallel()
	o := &origin{takes: 100 * time.Millisecond, err: fmt.Errorf("no row: %w", ErrNotFound)}
	inCrew(t, o, Spec[int, string]{TTL: time.Minute, NotFoundTTL: 5 * time.Second}, func(t *testing.T, c *crew) {
		leaders := 0
		for _, got := range c.all() {
			require.ErrorIs(t, got.err, ErrNotFound)
			require.Empty(t, got.v)
			require.Equal(t, o.takes, got.took)
			if got.how == Loaded {
				leaders++
				require.ErrorContains(t, got.err, "no row", "who loaded it has the error of Up")
			} else {
				require.Equal(t, Waited, got.how)
			}
		}
		require.Equal(t, 1, leaders)
		stored := time.Now()
		for _, at := range []time.Duration{0, 3 * time.Second, 5*time.Second - time.Millisecond} {
			time.Sleep(at - time.Since(stored))
			for _, got := range c.all() {
				require.ErrorIs(t, got.err, ErrNotFound)
				require.Equal(t, NotFound, got.how, "after %v", at)
				require.Zero(t, got.took)
			}
		}
		require.Equal(t, 1, o.loads())
		require.EqualValues(t, 3, c.caches[0].Stats().NotFoundHits)

		o.fails(nil)
		time.Sleep(time.Millisecond)
		for _, got := range c.all() {
			require.NoError(t, got.err)
			require.Equal(t, "v2", got.v)
			require.Equal(t, o.takes, got.took)
		}
		require.Equal(t, 2, o.loads())
		time.Sleep(time.Minute - time.Millisecond)
		c.agree("v2", Hit, 0, "a value lives for TTL")
	})
}

func TestNotFoundTTL_ReplacesTheValue(t *testing.T) {
	t.Parallel()
	o := &origin{}
	spec := Spec[int, string]{TTL: time.Second, NotFoundTTL: 5 * time.Second, StaleWhileRevalidate: time.Minute, StaleIfError: time.Hour}
	inCrew(t, o, spec, func(t *testing.T, c *crew) {
		require.NoError(t, look(t.Context(), c.caches[0], 1).err)
		o.fails(ErrNotFound)
		time.Sleep(time.Second)
		require.Equal(t, view{v: "v1", how: Stale}, look(t.Context(), c.caches[0], 1))
		synctest.Wait()
		for _, got := range c.all() {
			require.ErrorIs(t, got.err, ErrNotFound)
			require.Equal(t, NotFound, got.how)
		}
		require.Equal(t, 2, o.loads())
		// It is not served stale: nothing is, once it has been gone.
		o.fails(errSource)
		time.Sleep(5 * time.Second)
		require.ErrorIs(t, look(t.Context(), c.caches[1], 1).err, errSource)
	})
}

func TestNotFoundTTL_ZeroMakesEveryReaderLoad(t *testing.T) {
	t.Parallel()
	o := &origin{err: ErrNotFound}
	inCrew(t, o, Spec[int, string]{TTL: time.Minute}, func(t *testing.T, c *crew) {
		for n := range 3 {
			got := look(t.Context(), c.caches[n], 1)
			require.ErrorIs(t, got.err, ErrNotFound)
			require.Equal(t, Loaded, got.how)
			require.Equal(t, n+1, o.loads())
		}
		require.Zero(t, c.rdb.Exists(t.Context(), c.caches[0].Key(1)).Val())
	})
}

func TestNotFoundTTL_ReadIsOneGETAndNoLoad(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		counting, commands := counted(t, rdb)
		loads := 0
		c := newCache(t, counting, Spec[int, string]{NotFoundTTL: time.Hour, Jitter: NoJitter, Up: func(context.Context, int) (string, error) {
			loads++
			return "", ErrNotFound
		}})
		livesFor(t, rdb, c, 1, time.Hour, func() error {
			_, err := c.Get(t.Context(), 1)
			require.ErrorIs(t, err, ErrNotFound)
			return nil
		})
		commands.Reset()
		for range 10 {
			_, err := c.Get(t.Context(), 1)
			require.ErrorIs(t, err, ErrNotFound)
			_, ok, err := c.Lookup(t.Context(), 1)
			require.NoError(t, err)
			require.False(t, ok)
		}
		require.NoError(t, c.Close(t.Context()))
		require.Equal(t, 20, commands.Count("get"))
		require.Equal(t, 20, commands.Count())
		require.Equal(t, 1, loads)
		require.EqualValues(t, 20, c.Stats().NotFoundHits)
		require.Zero(t, c.Stats().Hits)
	})
}

// What a load has not found may be there by the time it says so.
func TestNotFoundTTL_AbsenceLoadedDuringAWriteIsNotStored(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(ctx context.Context, c *Cache[int, string]) error{
		"Set":    func(ctx context.Context, c *Cache[int, string]) error { return c.Set(ctx, 1, "set") },
		"Delete": func(ctx context.Context, c *Cache[int, string]) error { return c.Delete(ctx, 1) },
		"Expire": func(ctx context.Context, c *Cache[int, string]) error { return c.Expire(ctx, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				s := newSource(t)
				spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", Up: s.up, LeaseTTL: longLease, NotFoundTTL: time.Hour}
				a, b := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
				first := looking(t.Context(), a, 1)
				load := s.next(t)
				require.NoError(t, write(t.Context(), b))
				load.returns("", ErrNotFound)
				require.ErrorIs(t, receive(t, first).err, ErrNotFound)
				next := looking(t.Context(), a, 1)
				if name == "Set" {
					got := receive(t, next)
					require.Equal(t, "set", got.v)
					require.Equal(t, Hit, got.how)
				} else {
					s.next(t).returns("new", nil)
					got := receive(t, next)
					require.Equal(t, "new", got.v)
					require.Equal(t, Loaded, got.how)
				}
				if name != "Expire" { // which is no fence: the load was of no use, and is done again
					require.EqualValues(t, 1, a.Stats().Fenced)
				}
			})
		})
	}
}

func TestNotFoundTTL_EndsWithSetDeleteExpireOrRefresh(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(ctx context.Context, c *Cache[int, string]) error{
		"Set":     func(ctx context.Context, c *Cache[int, string]) error { return c.Set(ctx, 1, "there") },
		"Delete":  func(ctx context.Context, c *Cache[int, string]) error { return c.Delete(ctx, 1) },
		"Expire":  func(ctx context.Context, c *Cache[int, string]) error { return c.Expire(ctx, 1) },
		"Refresh": func(ctx context.Context, c *Cache[int, string]) error { _, err := c.Refresh(ctx, 1); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				missing := true
				spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", NotFoundTTL: time.Hour, Up: func(context.Context, int) (string, error) {
					if missing {
						return "", ErrNotFound
					}
					return "there", nil
				}}
				a, b := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
				require.Equal(t, Loaded, look(t.Context(), a, 1).how)
				missing = false
				require.Equal(t, NotFound, look(t.Context(), b, 1).how)
				require.NoError(t, end(t.Context(), b))
				got := look(t.Context(), a, 1)
				require.NoError(t, got.err)
				require.Equal(t, "there", got.v)
			})
		})
	}
}

func TestRefresh_RemembersErrNotFound(t *testing.T) {
	t.Parallel()
	o := &origin{}
	inCrew(t, o, Spec[int, string]{TTL: time.Minute, NotFoundTTL: 5 * time.Second}, func(t *testing.T, c *crew) {
		require.NoError(t, look(t.Context(), c.caches[0], 1).err)
		o.fails(ErrNotFound)
		_, err := c.caches[0].Refresh(t.Context(), 1)
		require.ErrorIs(t, err, ErrNotFound)
		synctest.Wait()
		require.Equal(t, NotFound, look(t.Context(), c.caches[1], 1).how)
		require.Equal(t, 2, o.loads())
		o.fails(errSource)
		_, err = c.caches[0].Refresh(t.Context(), 1)
		require.ErrorIs(t, err, errSource)
	})
}

// zeroIsAValue checks that the zero value of V and that there is none are two
// things.
func zeroIsAValue[V any](t *testing.T, rdb *redis.Client) {
	t.Helper()
	var zero V
	loads := 0
	c := newCache(t, rdb, Spec[int, V]{NotFoundTTL: time.Hour, Up: func(_ context.Context, id int) (V, error) {
		loads++
		if id == 2 {
			return zero, ErrNotFound
		}
		return zero, nil
	}})
	for range 2 { // loaded, and then a hit
		v, err := c.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, zero, v)
		_, err = c.Get(t.Context(), 2)
		require.ErrorIs(t, err, ErrNotFound)
	}
	require.NoError(t, c.Set(t.Context(), 3, zero))
	for id, there := range map[int]bool{1: true, 2: false, 3: true} {
		v, ok, err := c.Lookup(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, there, ok)
		require.Equal(t, zero, v)
	}
	all, err := c.GetMany(t.Context(), []int{1, 2, 3})
	require.NoError(t, err)
	require.Equal(t, map[int]V{1: zero, 3: zero}, all)
	require.Equal(t, 2, loads)
}

func TestNotFoundTTL_ZeroValueIsAValue(t *testing.T) {
	t.Parallel()
	for name, check := range map[string]func(*testing.T, *redis.Client){
		"an empty string": zeroIsAValue[string],
		"0":               zeroIsAValue[int],
		"an empty struct": zeroIsAValue[struct{}],
		"a struct":        zeroIsAValue[User],
		"a nil pointer":   zeroIsAValue[*User],
		"a nil map":       zeroIsAValue[map[string]int],
		"no interface":    zeroIsAValue[any],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, check)
		})
	}
}
