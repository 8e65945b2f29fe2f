package collection

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

func TestDelete_OfManyKeysIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	const n = 300
	redistest.Each(t, func(t *testing.T, plain *redis.Client) {
		rdb := redis.NewClient(plain.Options())
		t.Cleanup(func() { _ = rdb.Close() })
		commands := new(redistest.Counter)
		rdb.AddHook(commands)
		require.NoError(t, plain.ScriptLoad(t.Context(), script.Untrend.Source()).Err())
		prefix := redistest.Key(t)
		list := cachex.Must(NewRecent(rdb, RecentSpec[int, string]{Key: prefix + ":l:{id}", TTL: time.Hour, Len: 3}))
		trending := cachex.Must(NewTrending(rdb, TrendingSpec[int, string]{Key: prefix + ":t:{id}", Bucket: time.Hour, Buckets: 2, Top: 3}))
		ids := make([]int, n)
		for i := range ids {
			ids[i] = i
			require.NoError(t, list.Push(t.Context(), i, "a"))
		}
		_, err := trending.Add(t.Context(), 7, "a", 1)
		require.NoError(t, err)
		for _, remove := range []func(context.Context, ...int) error{list.Delete, trending.Delete} {
			commands.Reset()
			require.NoError(t, remove(t.Context(), ids...))
			require.Equal(t, 1, commands.RoundTrips())
			require.Equal(t, n, commands.Count("unlink", "evalsha"))
		}
		got, err := list.Get(t.Context(), 299)
		require.NoError(t, err)
		require.Empty(t, got)
		top, err := trending.Get(t.Context(), 7)
		require.NoError(t, err)
		require.Empty(t, top)
	})
}

// A step searches for as many members as fit into its time limit.
func TestRecent_FindsMembersInSeveralSteps(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		list := cachex.Must(NewRecent(rdb, RecentSpec[int, int]{Key: redistest.Key(t) + ":{id}", TTL: time.Hour, Len: maxElements, Unique: true}))
		require.Equal(t, 4, list.elementsPerStep())
		want := make([]int, 0, 20)
		for i := range 20 {
			want = append([]int{i}, want...)
		}
		push := func(elems ...int) {
			t.Helper()
			require.NoError(t, list.Push(t.Context(), 1, elems...))
		}
		holds := func(want ...int) {
			t.Helper()
			got, err := list.Get(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		push(9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
		for i := range 20 {
			push(i)
		}
		holds(want...)
		push(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0)
		holds(append([]int{0, 9, 8, 7, 6, 5, 4, 3, 2, 1}, want[:10]...)...)
		require.NoError(t, list.Remove(t.Context(), 1, want[:15]...))
		holds(0, 4, 3, 2, 1)
	})
}
