package collection

import (
	"context"
	"io"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// feed returns a Feed that is closed when the test ends. Key defaults to a key
// of this test alone, TTL to someTTL, Len to 5, Score to tens.
func feed(t testing.TB, rdb redis.UniversalClient, spec FeedSpec[int, string]) *Feed[int, string] {
	t.Helper()
	if spec.Key == "" {
		spec.Key = redistest.Key(t) + ":{id}"
	}
	if spec.TTL == 0 {
		spec.TTL = someTTL
	}
	if spec.LeaseTTL == 0 {
		spec.LeaseTTL = someLease
	}
	if spec.Len == 0 {
		spec.Len = 5
	}
	if spec.Score == nil {
		spec.Score = tens
	}
	f, err := NewFeed(rdb, spec)
	require.NoError(t, err)
	closing(t, f)
	return f
}

// tens returns a tenth of the number in s, so ten elements have the same score.
func tens(s string) float64 {
	n, err := strconv.Atoi(s)
	if err != nil {
		return math.NaN()
	}
	return float64(n / 10)
}

// posted is an Up that always returns the same elements.
func posted(elems ...string) func(context.Context, int) ([]string, error) {
	return func(context.Context, int) ([]string, error) { return append([]string{}, elems...), nil }
}

func TestFeed_OrdersByScoreAndBytesWithoutRepetitions(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, f := t.Context(), feed(t, rdb, FeedSpec[int, string]{})
		for _, e := range []string{"31", "12", "15", "31", "22", "15"} {
			require.NoError(t, f.Post(ctx, e, 1, 2, 1))
		}
		for _, id := range []int{1, 2} {
			has(t, &f.store, id, []string{"31", "22", "15", "12"})
		}
		has(t, &f.store, 3, []string{})
		require.NoError(t, f.Post(ctx, "41", 2))
		require.NoError(t, f.Post(ctx, "42", 2))
		has(t, &f.store, 2, []string{"42", "41", "31", "22", "15"})
		require.NoError(t, f.Post(ctx, "12", 2), "which comes after all that it keeps")
		has(t, &f.store, 2, []string{"42", "41", "31", "22", "15"})
		require.NoError(t, f.Post(ctx, "50"), "to nobody")
		require.NoError(t, f.Remove(ctx, "31", 1, 2, 3))
		has(t, &f.store, 1, []string{"22", "15", "12"})
		has(t, &f.store, 2, []string{"42", "41", "22", "15"})
		require.NoError(t, f.Delete(ctx, 1, 2))
		has(t, &f.store, 1, nil)
		has(t, &f.store, 2, nil)
	})
}

func TestFeed_StaysAbsentUntilRestored(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource[[]string]()
		f := feed(t, rdb, FeedSpec[int, string]{Up: s.up})
		require.NoError(t, f.Post(t.Context(), "30", 1), "which the source has")
		require.Zero(t, rdb.Exists(t.Context(), name(t, &f.store, 1)).Val())
		ch := asking(t.Context(), &f.store, 1)
		load := receive(t, s.began)
		require.NoError(t, f.Post(t.Context(), "40", 1))
		require.NoError(t, f.Post(t.Context(), "15", 1))
		require.LessOrEqual(t, rdb.PTTL(t.Context(), name(t, &f.store, 1)).Val(), someLease, "the lease lasts no longer by it")
		load.returns([]string{"15", "30", "10", "20", "25", "15"}, nil) // it has read one of them
		want := []string{"40", "30", "25", "20", "15"}
		require.Equal(t, answer[[]string]{want, nil}, receive(t, ch))
		has(t, &f.store, 1, want)
		s.idle(t)
	})
}

func TestFeed_RemoveFencesALoad(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource[[]string]()
		f := feed(t, rdb, FeedSpec[int, string]{Up: s.up})
		before := asking(t.Context(), &f.store, 1)
		load := receive(t, s.began)
		require.NoError(t, f.Remove(t.Context(), "20", 1))
		after := asking(t.Context(), &f.store, 1)
		second := receive(t, s.began) // it does not wait for the first load
		load.returns([]string{"20", "10"}, nil)
		second.returns([]string{"10"}, nil)
		require.Equal(t, answer[[]string]{[]string{"10"}, nil}, receive(t, after))
		require.Equal(t, answer[[]string]{[]string{"10"}, nil}, receive(t, before))
		has(t, &f.store, 1, []string{"10"})
		s.idle(t)
	})
}

// A post that a failed fan-out missed reappears after the TTL, and the
// timelines of inactive readers expire.
func TestFeed_PostSetsTheTTLOnlyWithoutASource(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		calls := 0
		for up, left := range map[bool]time.Duration{false: time.Minute, true: 20 * time.Second} {
			spec := FeedSpec[int, string]{Key: "timelines:" + strconv.FormatBool(up) + ":{id}", TTL: time.Minute}
			if up {
				spec.Up = func(context.Context, int) ([]string, error) { calls++; return []string{"10"}, nil }
			}
			f := feed(t, rdb, spec)
			has(t, &f.store, 1, append([]string{}, map[bool][]string{true: {"10"}}[up]...))
			require.NoError(t, f.Post(t.Context(), "10", 1))
			time.Sleep(40 * time.Second)
			require.NoError(t, f.Post(t.Context(), "20", 1))
			require.NoError(t, f.Remove(t.Context(), "30", 1))
			k := name(t, &f.store, 1)
			require.InDelta(t, left.Seconds(), rdb.PTTL(t.Context(), k).Val().Seconds(), 1)
			has(t, &f.store, 1, []string{"20", "10"})
		}
		require.Equal(t, 1, calls)
	})
}

func TestFeed_ForeignKeyIsAnErrorWithoutASourceAndAMissWithOne(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		alone, up := feed(t, rdb, FeedSpec[int, string]{}), feed(t, rdb, FeedSpec[int, string]{Up: posted("20", "10")})
		for what, put := range map[string]func(k string) error{
			"string": func(k string) error { return rdb.Set(ctx, k, "v", 0).Err() },
			"zset":   func(k string) error { return rdb.ZAdd(ctx, k, redis.Z{Score: 1, Member: "7"}).Err() },
		} {
			for _, f := range []*Feed[int, string]{alone, up} {
				require.NoError(t, f.Delete(ctx, 1))
				k := name(t, &f.store, 1)
				require.NoError(t, put(k))
				before := dump(t, rdb, k)
				_, err := f.Get(ctx, 1)
				_, _, paged := f.GetPage(ctx, 1, "", 2)
				if f == up {
					require.NoError(t, err, what)
					require.NoError(t, paged, what)
					has(t, &f.store, 1, []string{"20", "10"}, what)
					continue
				}
				require.ErrorIs(t, err, ErrForeign, what)
				require.ErrorIs(t, paged, ErrForeign, what)
				require.ErrorIs(t, f.Post(ctx, "10", 1), ErrForeign, what)
				require.ErrorIs(t, f.Remove(ctx, "10", 1), ErrForeign, what)
				require.Equal(t, before, dump(t, rdb, k), what)
			}
		}
	})
}

func TestFeed_ReadsItsSourceWithoutRedis(t *testing.T) {
	t.Parallel()
	f := feed(t, closedClient(t), FeedSpec[int, string]{Len: 3, Up: posted("31", "12", "15", "31", "22")})
	has(t, &f.store, 1, []string{"31", "22", "15"})
	page, next, err := f.GetPage(t.Context(), 1, "", 2)
	require.NoError(t, err)
	require.Equal(t, []string{"31", "22"}, page)
	page, next, err = f.GetPage(t.Context(), 1, next, 2)
	require.NoError(t, err)
	require.Equal(t, []string{"15"}, page)
	require.Empty(t, next)
	require.ErrorIs(t, f.Post(t.Context(), "1", 1), redis.ErrClosed)

	broken := feed(t, closedClient(t), FeedSpec[int, string]{Up: func(context.Context, int) ([]string, error) { return nil, io.ErrNoProgress }})
	_, err = broken.Get(t.Context(), 1)
	require.ErrorIs(t, err, io.ErrNoProgress)
	_, _, err = broken.GetPage(t.Context(), 1, "", 1)
	require.ErrorIs(t, err, io.ErrNoProgress)
	unscored := feed(t, closedClient(t), FeedSpec[int, string]{Up: posted("secret")})
	_, err = unscored.Get(t.Context(), 1)
	require.ErrorContains(t, err, "a score is not from -1e+300 to 1e+300")
	require.NotContains(t, err.Error(), "secret")
}

func TestNewFeed_NamesTheWrongField(t *testing.T) {
	t.Parallel()
	for want, spoil := range map[string]func(s *FeedSpec[int, string]){
		"Spec.Key is required":                        func(s *FeedSpec[int, string]) { s.Key = "" },
		"Spec.TTL is required":                        func(s *FeedSpec[int, string]) { s.TTL = 0 },
		"Spec.Len is 0, must be from 1 to 10000":      func(s *FeedSpec[int, string]) { s.Len = 0 },
		"Spec.Len is 10001, must be from 1":           func(s *FeedSpec[int, string]) { s.Len = 10_001 },
		"Spec.Score is required":                      func(s *FeedSpec[int, string]) { s.Score = nil },
		"Spec.LeaseTTL is 1ms, must be at least 100m": func(s *FeedSpec[int, string]) { s.LeaseTTL = time.Millisecond },
	} {
		spec := FeedSpec[int, string]{Key: "a:{id}", TTL: time.Minute, Len: 3, Score: tens}
		spoil(&spec)
		_, err := NewFeed(closedClient(t), spec)
		require.ErrorContains(t, err, "cachex: feed: "+want)
	}
}

func feedAnywhere(t *testing.T, rdb redis.UniversalClient) {
	prefix := redistest.Key(t)
	f := feed(t, rdb, FeedSpec[int, string]{Key: prefix + ":{id}", Up: posted("20", "10")})
	outboxes := feed(t, rdb, FeedSpec[int, string]{Key: prefix + ":by:{id}"})
	var to []int
	for id := range 30 { // on all nodes
		has(t, &f.store, id, []string{"20", "10"})
		to = append(to, id)
	}
	require.NoError(t, f.Post(t.Context(), "30", to...))
	require.NoError(t, f.Remove(t.Context(), "20", to...))
	require.NoError(t, outboxes.Post(t.Context(), "40", to...))
	for id := range to {
		has(t, &f.store, id, []string{"30", "10"})
		page, next, err := f.GetPage(t.Context(), id, "", 2, outboxes.Timeline(id), outboxes.Timeline(id+1), f.Timeline(id+100))
		require.NoError(t, err)
		require.Equal(t, []string{"40", "30"}, page)
		page, _, err = f.GetPage(t.Context(), id, next, 2, outboxes.Timeline(id), outboxes.Timeline(id+1), f.Timeline(id+100))
		require.NoError(t, err)
		require.Equal(t, []string{"20", "10"}, page)
	}
}
