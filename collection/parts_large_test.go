package collection

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// members returns n members.
func manyMembers(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint("member ", i)
	}
	slices.Sort(all)
	return all
}

func TestLargeSet_IsReadInParts(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, want := t.Context(), manyMembers(10*scanCount+1)
		spec := SetSpec[int, string]{Key: redistest.Key(t) + ":{id}", TTL: time.Hour}
		plain := cachex.Must(NewSet(rdb, spec))
		n, err := plain.Add(ctx, 1, want...)
		require.NoError(t, err)
		require.EqualValues(t, len(want), n)
		spec.Key = redistest.Key(t) + ":restored:{id}"
		spec.Up = func(context.Context, int) ([]string, error) { return want, nil }
		restored := cachex.Must(NewSet(rdb, spec))
		for _, s := range []*Set[int, string]{plain, restored} {
			for range 2 {
				got, err := s.Get(ctx, 1)
				require.NoError(t, err)
				slices.Sort(got)
				require.Equal(t, want, got)
				var b batch.Batch
				v := batch.Get(&b, s, 1)
				require.NoError(t, b.Run(ctx))
				got, err = v.Get()
				require.NoError(t, err)
				slices.Sort(got)
				require.Equal(t, want, got)
			}
		}
		require.EqualValues(t, 1, restored.Stats().Loads)
		require.NoError(t, plain.Delete(ctx, 1))
		got, err := plain.Get(ctx, 1)
		require.NoError(t, err)
		require.Empty(t, got)
	})
}

// A reader whose set is replaced between two parts returns one of the two sets,
// not a mixture.
func TestLargeSet_ReplacedDuringAReadIsNotMixed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t) // an embedded server returns everything in one reply
	rdb, other := server.Client(nil), server.Client(nil)
	ctx := t.Context()
	version := 0
	s := SetSpec[int, string]{Key: "{id}", TTL: time.Hour, Up: func(context.Context, int) ([]string, error) {
		all := manyMembers(5 * scanCount)
		for i := range all {
			all[i] += fmt.Sprint(" of version ", version)
		}
		return all, nil
	}}
	set, writer := cachex.Must(NewSet(rdb, s)), cachex.Must(NewSet(other, s))
	_, err := writer.Get(ctx, 1)
	require.NoError(t, err)
	parts := 0
	rdb.AddHook(hookFunc(func(cmd redis.Cmder) {
		if cmd.Name() != "sscan" {
			return
		}
		if parts++; parts == 4 {
			version++
			require.NoError(t, writer.Delete(ctx, 1))
			_, err := writer.Get(ctx, 1)
			require.NoError(t, err)
		}
	}))
	got, err := set.Get(ctx, 1)
	require.NoError(t, err)
	require.True(t, len(got) == 5*scanCount, "%d members", len(got))
	for _, m := range got {
		require.Contains(t, m, " of version 1")
	}
}

// hookFunc is a hook that is called after each command sent on its own.
type hookFunc func(redis.Cmder)

func (f hookFunc) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f hookFunc) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { err := next(ctx, cmd); f(cmd); return err }
}

func (f hookFunc) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestLargeWindow_IsReadInParts(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		trending := cachex.Must(NewTrending(rdb, TrendingSpec[int, string]{
			Key: redistest.Key(t) + ":{id}", Bucket: 24 * time.Hour, Buckets: 10, Top: 4000, Keep: 10_000,
		}))
		now, err := rdb.Time(ctx).Result()
		require.NoError(t, err)
		k := trending.mustKey(t, 1)
		want := map[string]float64{}
		for back, n := range []int{5000, 1, 2500, 0, 2000, 4001} { // members of the buckets
			p := rdb.Pipeline()
			for i, m := range manyMembers(n) {
				score := float64(i % 7) // many members share a score
				p.ZAdd(ctx, fmt.Sprint(k, ":", now.UnixMilli()/(24*time.Hour).Milliseconds()-int64(back)), redis.Z{Member: m, Score: score})
				want[m] += score
			}
			_, err := p.Exec(ctx)
			require.NoError(t, err)
		}
		order := make([]position, 0, len(want))
		for m, score := range want {
			order = append(order, position{score, m})
		}
		slices.SortFunc(order, position.compare)
		var b batch.Batch
		v := batch.Get(&b, trending, 1)
		require.NoError(t, b.Run(ctx))
		inBatch, err := v.Get()
		require.NoError(t, err)
		alone, err := trending.Get(ctx, 1)
		require.NoError(t, err)
		for _, got := range [][]Scored[string]{inBatch, alone} {
			require.Len(t, got, 4000)
			for i, s := range got {
				require.Equal(t, order[i], position{s.Score, s.Member})
			}
		}
		require.NoError(t, rdb.Del(ctx, fmt.Sprint(k, ":", now.UnixMilli()/(24*time.Hour).Milliseconds()-2)).Err())
		require.NoError(t, rdb.Set(ctx, fmt.Sprint(k, ":", now.UnixMilli()/(24*time.Hour).Milliseconds()-2), "foreign", 0).Err())
		_, err = trending.Get(ctx, 1)
		require.ErrorIs(t, err, ErrForeign)
	})
}

// mustKey returns the Redis key.
func (t *Trending[K, M]) mustKey(tb testing.TB, key K) string {
	k, err := t.renderKey(key)
	require.NoError(tb, err)
	return k
}

// Writes during the restoration of a ranking take as many steps as they need.
func TestRanking_KeepsAllWritesDuringARestoration(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		const n = 1501
		ctx, id := t.Context(), 1
		var r *Ranking[int, string]
		names, want := manyMembers(n), map[string]float64{}
		spec := RankingSpec[int, string]{Key: redistest.Key(t) + ":{id}", TTL: time.Hour, Top: 2 * n}
		spec.Up = func(context.Context, int) (all []Scored[string], err error) {
			k, err := r.renderKey(id)
			require.NoError(t, err)
			add := func(m string, by int) {
				_, err := script.Score.Run(ctx, rdb, k, true, 2*n, "=", "add", by, m) // Add would wait for the restoration
				require.NoError(t, err)
			}
			for i, m := range names {
				if i%2 == 0 {
					all, want[m] = append(all, Scored[string]{Member: m, Score: float64(i)}), float64(i)
				}
				switch i % 5 {
				case 0:
					add(m, 3)
					want[m] += 3
				case 1:
					require.NoError(t, r.Set(ctx, id, m, -5))
					want[m] = -5
				case 2:
					add(m, 3)
					require.NoError(t, r.Set(ctx, id, m, -5))
					add(m, 1)
					want[m] = -4
				}
			}
			return all, nil
		}
		r = cachex.Must(NewRanking(rdb, spec))
		got, err := r.Get(ctx, id)
		require.NoError(t, err)
		scores := make(map[string]float64, len(got))
		for _, s := range got {
			scores[s.Member] = s.Score
		}
		require.Equal(t, want, scores)
		require.EqualValues(t, 1, r.Stats().Loads)
	})
}
