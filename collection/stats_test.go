package collection

import (
	"context"
	"io"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestStats_CountReadsAndLoads(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource[[]string]()
		faults := new(redistest.Faults)
		client := again(t, rdb)
		client.AddHook(faults)
		prefix := redistest.Key(t) + ":{id}"
		r := recent(t, client, RecentSpec[int, string]{Key: prefix, Up: s.up})
		other := recent(t, rdb, RecentSpec[int, string]{Key: prefix, Up: s.up})
		counted := func() Stats {
			got := r.Stats()
			require.Equal(t, got.Loads > 0, got.LoadTime > 0)
			got.LoadTime = 0
			return got
		}
		require.Zero(t, counted())

		ch := asking(t.Context(), &other.store, 1)
		load := receive(t, s.began)
		waiting := asking(t.Context(), &r.store, 1)
		for r.Stats().Waits == 0 {
			require.NoError(t, rdb.Ping(t.Context()).Err()) // it soon waits
		}
		load.returns([]string{"a"}, nil)
		receive(t, ch)
		receive(t, waiting)
		has(t, &r.store, 1, []string{"a"})
		require.Equal(t, Stats{Hits: 1, Misses: 1, Waits: 1}, counted())

		ch = asking(t.Context(), &r.store, 2)
		load = receive(t, s.began)
		require.NoError(t, rdb.Del(t.Context(), name(t, &r.store, 2)).Err())
		load.returns([]string{"old"}, nil)
		receive(t, s.began).returns(nil, io.ErrNoProgress)
		require.ErrorIs(t, receive(t, ch).err, io.ErrNoProgress)
		require.Equal(t, Stats{Hits: 1, Misses: 2, Waits: 1, Loads: 2, LoadFailures: 1, Fenced: 1}, counted())

		var b batch.Batch
		batch.Get(&b, r, 1)
		require.NoError(t, b.Run(t.Context()))
		faults.Add(redistest.Fault{Times: 2}) // for the read and the lease
		ch = asking(t.Context(), &r.store, 1)
		receive(t, s.began).returns([]string{"b"}, nil)
		require.Equal(t, answer[[]string]{[]string{"b"}, nil}, receive(t, ch))
		require.Equal(t, Stats{Hits: 2, Misses: 3, Waits: 1, Loads: 3, LoadFailures: 1, Fenced: 1, RedisFailures: 1}, counted())

		panics := recent(t, rdb, RecentSpec[int, string]{Up: func(context.Context, int) ([]string, error) { panic("of Up") }})
		_, err := panics.Get(t.Context(), 1)
		require.Error(t, err)
		require.EqualValues(t, 1, panics.Stats().Loads)
		require.EqualValues(t, 1, panics.Stats().LoadFailures)
	})
}
