package cachex

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// apart is a client of which nobody knows that it has one server: each key is read by
// itself, as from a Cluster.
type apart struct{ *redis.Client }

// Of five keys, what is sent for the first two is answered, and then the connection
// is cut. Every key has its value all the same, what had no lease is not stored,
// and no lease is left. What is known not to have been sent is sent again.
func TestGetMany_SurvivesTheLossOfAConnectionInAPipeline(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		match    func(redis.Cmder) bool
		executed bool
		warm     bool // it reads before it asks for the leases
		stored   []int
		bypassed bool
	}{
		{"leases, not sent", sends(script.Acquire), false, false, []int{1, 2, 3, 4, 5}, false},
		{"leases, granted", sends(script.Acquire), true, false, []int{1, 2}, true},
		{"values, not stored", sends(script.Store), false, false, []int{1, 2}, false},
		{"values, stored", sends(script.Store), true, false, []int{1, 2, 3, 4, 5}, false},
		{"reads", redistest.Named("get"), false, true, []int{1, 2}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				s := newShop(t)
				skip := 2
				spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", UpMany: s.upMany, LeaseTTL: longLease}
				if row.warm {
					spec.StaleWhileRevalidate = time.Minute
				}
				slow := faulty(t, rdb, redistest.Fault{Match: row.match, Skip: skip, Executed: row.executed})
				c, other := newCache(t, apart{slow}, spec), newCache(t, rdb, spec)
				var how Outcome
				ch := askingMany(WithOutcome(t.Context(), &how), c, 1, 2, 3, 4, 5)
				s.next(t, 1, 2, 3, 4, 5).delivers("up")
				getsMany(t, goods("up", 1, 2, 3, 4, 5), ch)
				if row.bypassed {
					require.Equal(t, Bypassed, how)
				} else {
					require.Equal(t, Loaded, how)
				}
				require.Equal(t, row.name == "leases, not sent", c.Stats().RedisFailures == 0)
				require.Zero(t, c.Stats().Fenced)
				eventually(t, "the leases should be free", func() bool {
					n := rdb.Exists(t.Context(), c.Key(1), c.Key(2), c.Key(3), c.Key(4), c.Key(5)).Val()
					return n == int64(len(row.stored))
				})
				requireFree(t, rdb, c, 1, 2, 3, 4, 5)
				getsMany(t, goods("up", row.stored...), lookingUp(t, other, 1, 2, 3, 4, 5))

				// The next one loads what is missing, and needs no more than that.
				ch = askingMany(t.Context(), other, 1, 2, 3, 4, 5)
				want := goods("up", row.stored...)
				if lost := numbers(len(row.stored)+1, 5-len(row.stored)); len(lost) > 0 {
					s.next(t, lost...).delivers("new")
					for id, v := range goods("new", lost...) {
						want[id] = v
					}
				}
				getsMany(t, want, ch)
				require.Empty(t, s.calls)
			})
		})
	}
}

func TestGetMany_ScriptsAreSentAgainAfterAScriptFlush(t *testing.T) {
	t.Parallel()
	for name, one := range map[string]*script.Script{"acquire": script.Acquire, "store": script.Store} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				calls := 0
				slow := faulty(t, rdb, redistest.Fault{
					Match: func(cmd redis.Cmder) bool { return runs(cmd, one) }, Skip: 2, Err: serverError("NOSCRIPT No matching script."),
				})
				commands := new(redistest.Counter)
				slow.AddHook(commands)
				c := newCache(t, slow, Spec[int, string]{LeaseTTL: longLease, UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
					calls++
					return goods("up", ids...), nil
				}})
				getsMany(t, goods("up", 1, 2, 3, 4, 5), askingMany(t.Context(), c, 1, 2, 3, 4, 5))
				getsMany(t, goods("up", 1, 2, 3, 4, 5), lookingUp(t, c, 1, 2, 3, 4, 5))
				require.Equal(t, 1, calls)
				require.Equal(t, 3, commands.Count("eval"), "those that were refused, and no others")
				require.Zero(t, c.Stats().RedisFailures)
			})
		})
	}
}

func TestGetMany_RedisDownLoadsInOneCallAndStoresNothing(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		away := faulty(t, rdb, redistest.Fault{Times: redistest.Always})
		c := newCache(t, away, Spec[int, string]{UpMany: s.upMany, LeaseTTL: longLease})
		for range 3 {
			var how Outcome
			ch := askingMany(WithOutcome(t.Context(), &how), c, 1, 2, 3)
			s.next(t, 1, 2, 3).answer <- func() (map[int]string, error) { return goods("up", 1, 2), nil }
			getsMany(t, goods("up", 1, 2), ch)
			require.Equal(t, Bypassed, how)
		}
		require.Zero(t, rdb.Exists(t.Context(), c.Key(1), c.Key(2), c.Key(3)).Val())
		_, err := c.LookupMany(t.Context(), []int{1, 2})
		require.Error(t, err)
		require.Equal(t, c.Key(1), err.(*Error).Key)
		require.Error(t, c.SetMany(t.Context(), goods("set", 1, 2)))
	})
}

// A holder that dies in the middle of a load of many keys is replaced after its
// LeaseTTL, and its keys are loaded in one call again as far as they can be.
func TestGetMany_KilledLoaderIsReplaced(t *testing.T) {
	t.Parallel()
	inShops(t, Spec[int, string]{LeaseTTL: 3 * time.Second}, func(t *testing.T, rdb *redis.Client, s *shop, a, b *Cache[int, string]) {
		hung := again(t, rdb)
		faults := new(redistest.Faults)
		hung.AddHook(faults)
		dying := newCache(t, hung, Spec[int, string]{Key: "k:{id}", UpMany: s.upMany, LeaseTTL: 3 * time.Second})
		first := askingMany(t.Context(), dying, 1, 2, 3)
		load := s.next(t, 1, 2, 3)
		faults.Add(redistest.Fault{Times: redistest.Always}) // as good as dead, for Redis
		began := time.Now()
		second := askingMany(t.Context(), a, 1, 2, 3, 4)
		s.next(t, 4).delivers("up")
		for range 3 {
			receive(t, s.calls).delivers("new")
		}
		got := receive(t, second)
		require.NoError(t, got.err)
		require.Equal(t, map[int]string{1: "new1", 2: "new2", 3: "new3", 4: "up4"}, got.values)
		require.LessOrEqual(t, time.Since(began), 4*time.Second, "within the TTL of the lease, and a poll")
		load.delivers("old")
		getsMany(t, goods("old", 1, 2, 3), first)
		getsMany(t, got.values, askingMany(t.Context(), b, 1, 2, 3, 4))
		require.NoError(t, dying.Close(t.Context()))
	})
}

// What cannot be used is loaded and replaced, in the same call as what is missing.
func TestGetMany_GarbageIsReplaced(t *testing.T) {
	t.Parallel()
	for _, warm := range []bool{false, true} {
		t.Run(fmt.Sprint("warm ", warm), func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				s := newShop(t)
				c := newCache(t, rdb, Spec[int, string]{UpMany: s.upMany, LeaseTTL: longLease})
				require.NoError(t, c.SetMany(t.Context(), goods("set", 1, 2, 3, 4, 5, 6)))
				if warm {
					getsMany(t, goods("set", 1, 2), askingMany(t.Context(), c, 1, 2))
				}
				require.NoError(t, rdb.Set(t.Context(), c.Key(2), "foreign", 0).Err())
				require.NoError(t, rdb.Set(t.Context(), c.Key(3), "\xc1X", 0).Err())
				require.NoError(t, rdb.Del(t.Context(), c.Key(4), c.Key(5)).Err())
				require.NoError(t, rdb.LPush(t.Context(), c.Key(4), "a list").Err())
				getsMany(t, goods("set", 1, 6), lookingUp(t, c, 1, 2, 3, 4, 5, 6))
				ch := askingMany(t.Context(), c, 1, 2, 3, 4, 5, 6)
				s.next(t, 2, 3, 4, 5).delivers("up")
				want := map[int]string{1: "set1", 2: "up2", 3: "up3", 4: "up4", 5: "up5", 6: "set6"}
				getsMany(t, want, ch)
				getsMany(t, want, lookingUp(t, c, 1, 2, 3, 4, 5, 6))
			})
		})
	}
}
