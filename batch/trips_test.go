package batch_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// patience bounds every wait in real time.
var patience = redistest.Patience

// newCache returns a cache of rdb that is closed when the test ends. If spec has
// no Key, it gets one that no other cache has; if it has no TTL, a minute.
func newCache[K comparable, V any](t testing.TB, rdb redis.UniversalClient, name string, spec cachex.Spec[K, V]) *cachex.Cache[K, V] {
	t.Helper()
	spec.Key = redistest.Key(t) + ":" + name + ":{id}"
	if spec.TTL == 0 {
		spec.TTL = time.Minute
	}
	c, err := cachex.New(rdb, spec)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience) // t.Context has ended
		defer cancel()
		require.NoError(t, c.Close(ctx), "a call or a load is left behind")
	})
	return c
}

type profile struct {
	Name string
	Age  int
}

// takes is how long loads take.
const takes = 50 * time.Millisecond

// five are five caches of as many types, and what they load.
type five struct {
	names    *cachex.Cache[int, string]
	profiles *cachex.Cache[string, profile]
	counts   *cachex.Cache[int64, int64]
	flags    *cachex.Cache[bool, bool]
	lists    *cachex.Cache[uint8, []string]
}

func fiveOf(t testing.TB, rdb redis.UniversalClient) *five {
	return &five{
		names: newCache(t, rdb, "names", cachex.Spec[int, string]{
			Up: func(_ context.Context, id int) (string, error) {
				time.Sleep(takes)
				return fmt.Sprint("name", id), nil
			},
		}),
		profiles: newCache(t, rdb, "profiles", cachex.Spec[string, profile]{
			Up: func(_ context.Context, name string) (profile, error) {
				time.Sleep(takes)
				return profile{name, len(name)}, nil
			},
		}),
		counts: newCache(t, rdb, "counts", cachex.Spec[int64, int64]{
			UpMany: func(_ context.Context, ids []int64) (map[int64]int64, error) {
				time.Sleep(takes)
				m := map[int64]int64{}
				for _, id := range ids {
					m[id] = id * id
				}
				return m, nil
			},
		}),
		flags: newCache(t, rdb, "flags", cachex.Spec[bool, bool]{
			Up: func(_ context.Context, b bool) (bool, error) {
				time.Sleep(takes)
				return !b, nil
			},
		}),
		lists: newCache(t, rdb, "lists", cachex.Spec[uint8, []string]{
			StaleWhileRevalidate: time.Minute,
			Up: func(_ context.Context, n uint8) ([]string, error) {
				time.Sleep(takes)
				if n == 0 {
					return nil, cachex.ErrNotFound
				}
				return make([]string, n), nil
			},
		}),
	}
}

// read reads some of each in one Batch, and requires what there must be.
func (f *five) read(t testing.TB, first int) {
	t.Helper()
	var b batch.Batch
	name := batch.Get(&b, f.names, first)
	other := batch.Get(&b, f.names, first+1)
	same := batch.Get(&b, f.names, first)
	ann := batch.Get(&b, f.profiles, fmt.Sprint("ann", first))
	counts := batch.GetMany(&b, f.counts, []int64{1, 2, int64(first), 2})
	flag := batch.Get(&b, f.flags, first%2 == 0)
	list := batch.Get(&b, f.lists, 3)
	none := batch.Get(&b, f.lists, 0)
	lists := batch.GetMany(&b, f.lists, []uint8{0, 1, 3})
	require.NoError(t, b.Run(t.Context()))

	requireValue(t, fmt.Sprint("name", first), name)
	requireValue(t, fmt.Sprint("name", first+1), other)
	requireValue(t, fmt.Sprint("name", first), same)
	requireValue(t, profile{fmt.Sprint("ann", first), len(fmt.Sprint("ann", first))}, ann)
	requireValue(t, map[int64]int64{1: 1, 2: 4, int64(first): int64(first * first)}, counts)
	requireValue(t, first%2 != 0, flag)
	requireValue(t, make([]string, 3), list)
	requireValue(t, map[uint8][]string{1: make([]string, 1), 3: make([]string, 3)}, lists)
	_, err := none.Get()
	require.ErrorIs(t, err, cachex.ErrNotFound)
	require.EqualError(t, err, "cachex: get "+f.lists.Key(0)+": not found")
}

func requireValue[V any](t testing.TB, want V, v *batch.Value[V]) {
	t.Helper()
	got, err := v.Get()
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// loadScripts has a server know the scripts: the first EVALSHA of each costs a round
// trip more.
func loadScripts(t testing.TB, rdb *redis.Client) {
	t.Helper()
	for _, s := range []*script.Script{script.Acquire, script.Store, script.Release, script.Write, script.Expire} {
		require.NoError(t, rdb.ScriptLoad(t.Context(), s.Source()).Err())
	}
}

// In a bubble, since those who have loaded wait for the others no longer than 50 ms: a
// machine that stands still for as long parts them.
func TestRun_FiveTypesAreOneRoundTripWarmAndThreeCold(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, plain *redis.Client) {
		road := new(redistest.Roadside)
		rdb := road.Client(t, plain)
		loadScripts(t, rdb)
		_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error { // which has a connection of its own
			p.Ping(t.Context())
			p.Ping(t.Context())
			return nil
		})
		require.NoError(t, err)
		f := fiveOf(t, rdb)
		costs := func(want int, first int) {
			t.Helper()
			before := road.Trips()
			f.read(t, first)
			require.Equal(t, want, road.Trips()-before)
		}
		costs(3, 7)
		costs(3, 7) // that there is none is not remembered here, and the others are there
		var b batch.Batch
		first, second := batch.Get(&b, f.names, 7), batch.Get(&b, f.profiles, "ann7")
		before := road.Trips()
		require.NoError(t, b.Run(t.Context()))
		require.Equal(t, 1, road.Trips()-before)
		requireValue(t, "name7", first)
		requireValue(t, profile{"ann7", 4}, second)
	})
}
