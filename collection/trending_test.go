package collection

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/redistest"
)

// trending returns a Trending. Key defaults to a key of this test alone, Bucket
// to an hour, Buckets to 24, Top to 3.
func trending[M any](t testing.TB, rdb redis.UniversalClient, spec TrendingSpec[int, M]) *Trending[int, M] {
	t.Helper()
	if spec.Key == "" {
		spec.Key = redistest.Key(t) + ":{id}"
	}
	if spec.Bucket == 0 {
		spec.Bucket = time.Hour
	}
	if spec.Buckets == 0 {
		spec.Buckets = 24
	}
	if spec.Top == 0 {
		spec.Top = 3
	}
	tr, err := NewTrending(rdb, spec)
	require.NoError(t, err)
	return tr
}

// trends fails unless adding one returns want.
func trends(t testing.TB, tr *Trending[int, string], id int, member string, want float64) {
	t.Helper()
	got, err := tr.Add(t.Context(), id, member, 1)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestTrending_CoversTheCurrentAndEarlierBuckets(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		time.Sleep(time.Until(time.Now().Truncate(time.Hour).Add(time.Hour))) // on the hour
		tr := trending(t, rdb, TrendingSpec[int, string]{Key: "top:{id}", Buckets: 3})
		shows := func(want board) {
			t.Helper()
			has(t, &tr.store, 1, append(board{}, want...))
		}
		shows(nil)
		trends(t, tr, 1, "a", 1) // 0:00
		time.Sleep(59 * time.Minute)
		trends(t, tr, 1, "a", 2) // 0:59
		time.Sleep(2 * time.Minute)
		trends(t, tr, 1, "b", 1) // 1:01
		trends(t, tr, 1, "c", 1)
		trends(t, tr, 1, "a", 3)
		shows(board{{"a", 3}, {"c", 1}, {"b", 1}})
		time.Sleep(time.Hour)
		trends(t, tr, 1, "b", 2) // 2:01
		shows(board{{"a", 3}, {"b", 2}, {"c", 1}})
		time.Sleep(58*time.Minute + 59*time.Second)
		shows(board{{"a", 3}, {"b", 2}, {"c", 1}}) // 2:59:59
		time.Sleep(time.Second)
		shows(board{{"b", 2}, {"c", 1}, {"a", 1}}) // 3:00: additions since 1:00
		trends(t, tr, 1, "a", 2)
		time.Sleep(time.Hour)
		shows(board{{"b", 1}, {"a", 1}}) // 4:00: from 2:00 on
		time.Sleep(time.Hour)
		shows(board{{"a", 1}})
		time.Sleep(time.Hour)
		shows(nil)
		require.Empty(t, rdb.Keys(t.Context(), "*").Val(), "buckets expire by themselves")
	})
}

func TestTrending_KeepsTheHighestOfABucketAndReturnsTheTop(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		tr := trending(t, rdb, TrendingSpec[int, string]{Bucket: 1000 * time.Hour, Buckets: 2, Top: 2, Keep: 3})
		for i, member := range []string{"a", "b", "c", "d"} {
			sum, err := tr.Add(t.Context(), 1, member, float64(i+2))
			require.NoError(t, err)
			require.EqualValues(t, i+2, sum)
		}
		has(t, &tr.store, 1, board{{"d", 5}, {"c", 4}})
		sum, err := tr.Add(t.Context(), 1, "e", 1)
		require.NoError(t, err)
		require.Zero(t, sum, "it was dropped")
		sum, err = tr.Add(t.Context(), 1, "c", 1<<53-4-5)
		require.NoError(t, err)
		require.EqualValues(t, int64(1<<53-5), sum)
		sum, err = tr.Add(t.Context(), 1, "c", 5)
		require.NoError(t, err)
		require.EqualValues(t, int64(1<<53), sum, "exact to 2^53")
		require.NoError(t, tr.Remove(t.Context(), 1, "d", "x"))
		has(t, &tr.store, 1, board{{"c", 1 << 53}, {"b", 3}})
		require.NoError(t, tr.Delete(t.Context(), 1, 2))
		has(t, &tr.store, 1, board{})
		has(t, &tr.store, 2, board{})
	})
}

func TestTrending_ReadsInOneRoundTrip(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		tr := trending(t, rdb, TrendingSpec[int, string]{})
		trends(t, tr, 1, "a", 1)
		has(t, &tr.store, 1, board{{"a", 1}})
		trips := new(redistest.Counter)
		rdb.AddHook(trips)
		has(t, &tr.store, 1, board{{"a", 1}})
		require.Equal(t, 1, trips.RoundTrips())
	})
}

func TestTrending_ForeignBucketIsAnError(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, tr := t.Context(), trending(t, rdb, TrendingSpec[int, string]{Bucket: 1000 * time.Hour})
		trends(t, tr, 1, "secret", 1)
		mine := rdb.Keys(ctx, name(t, &tr.store, 1)+":*").Val()
		require.Len(t, mine, 1)
		require.NoError(t, rdb.Set(ctx, mine[0], "v", 0).Err())
		_, err := tr.Get(ctx, 1)
		require.ErrorIs(t, err, ErrForeign)
		_, err = tr.Add(ctx, 1, "a", 1)
		require.ErrorIs(t, err, ErrForeign)
		require.ErrorIs(t, tr.Remove(ctx, 1, "a"), ErrForeign)
		require.Equal(t, "v", rdb.Get(ctx, mine[0]).Val())
		require.NoError(t, tr.Delete(ctx, 1))
		has(t, &tr.store, 1, board{})
	})
}

func TestTrending_UndecodableMemberIsAnError(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		prefix := redistest.Key(t) + ":{id}"
		words, numbers := trending(t, rdb, TrendingSpec[int, string]{Key: prefix}), trending(t, rdb, TrendingSpec[int, int]{Key: prefix})
		trends(t, words, 1, "secret", 1)
		_, err := numbers.Get(t.Context(), 1)
		require.ErrorIs(t, err, codec.ErrFormat)
		require.NotContains(t, err.Error(), "secret")
	})
}

func TestTrending_FailedAddReportsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		tr := trending(t, rdb, TrendingSpec[int, string]{})
		trends(t, tr, 1, "a", 1)
		faults := new(redistest.Faults)
		rdb.AddHook(faults)
		faults.Add(redistest.Fault{Executed: true})
		_, err := tr.Add(t.Context(), 1, "a", 1)
		require.ErrorIs(t, err, ErrOutcomeUnknown)
		has(t, &tr.store, 1, board{{"a", 2}})
		for _, by := range []float64{math.NaN(), math.Inf(1), 2e300} {
			_, err = tr.Add(t.Context(), 1, "a", by)
			require.ErrorContains(t, err, "a score must be from -1e+300 to 1e+300")
		}
		has(t, &tr.store, 1, board{{"a", 2}})
	})
}

func TestNewTrending_NamesTheWrongField(t *testing.T) {
	t.Parallel()
	for want, spoil := range map[string]func(s *TrendingSpec[int, int]){
		"Spec.Key is required":                        func(s *TrendingSpec[int, int]) { s.Key = "" },
		"Spec.Bucket is 999ms, must be a second":      func(s *TrendingSpec[int, int]) { s.Bucket = 999 * time.Millisecond },
		"Spec.Bucket is 1.0005s, must be a sec":       func(s *TrendingSpec[int, int]) { s.Bucket = time.Second + 500*time.Microsecond },
		"2 Spec.Buckets of 438001h0m0s are more than": func(s *TrendingSpec[int, int]) { s.Bucket = maxWindow/2 + time.Hour },
		"Spec.Buckets is 0, must be from 1 to 1000":   func(s *TrendingSpec[int, int]) { s.Buckets = 0 },
		"Spec.Top is 0, must be from 1 to 10000":      func(s *TrendingSpec[int, int]) { s.Top = 0 },
		"Spec.Keep is 2, must be from Top, 3, to 10":  func(s *TrendingSpec[int, int]) { s.Keep = 2 },
	} {
		spec := TrendingSpec[int, int]{Key: "a:{id}", Bucket: time.Minute, Buckets: 2, Top: 3}
		spoil(&spec)
		_, err := NewTrending(closedClient(t), spec)
		require.ErrorContains(t, err, "cachex: trending: "+want)
	}
	braced := trending(t, closedClient(t), TrendingSpec[int, int]{})
	braced.key, _ = key.FromSpec("", func(int) string { return "a}b" })
	_, err := braced.Get(context.Background(), 1)
	require.ErrorContains(t, err, "the key has a brace, and no hash tag")
}

func trendingAnywhere(t *testing.T, rdb redis.UniversalClient) {
	for _, template := range []string{redistest.Key(t) + ":{id}", redistest.Key(t) + ":{{id}}:top"} {
		tr := trending(t, rdb, TrendingSpec[int, string]{Key: template})
		for id := range 30 { // on all nodes
			trends(t, tr, id, "a", 1)
			trends(t, tr, id, "a", 2)
			trends(t, tr, id, "b", 1)
			has(t, &tr.store, id, board{{"a", 2}, {"b", 1}})
			require.NoError(t, tr.Remove(t.Context(), id, "a"))
			has(t, &tr.store, id, board{{"b", 1}})
			require.NoError(t, tr.Delete(t.Context(), id))
		}
	}
}
