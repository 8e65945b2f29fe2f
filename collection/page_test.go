package collection

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
)

// pages reads page by page, n elements each. It fails if a page other than the
// last one has fewer.
func pages(t testing.TB, f *Feed[int, string], id, n int, others ...Timeline[string]) (all []string) {
	t.Helper()
	for after := Cursor(""); ; {
		page, next, err := f.GetPage(t.Context(), id, after, n, others...)
		require.NoError(t, err)
		all = append(all, page...)
		if after = next; next == "" {
			return all
		}
		require.Len(t, page, n)
	}
}

func TestGetPage_CoversTheTimelineWithoutRepetitions(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := feed(t, rdb, FeedSpec[int, string]{Len: 40})
		require.Empty(t, pages(t, f, 1, 3))
		for i := range 45 { // ten elements share a score
			require.NoError(t, f.Post(t.Context(), fmt.Sprint(100+i), 1))
		}
		var want []string
		for i := 44; i > 4; i-- {
			want = append(want, fmt.Sprint(100+i))
		}
		for _, n := range []int{1, 3, 8, 39, 40, 41, 100} {
			require.Equal(t, want, pages(t, f, 1, n), n)
		}
	})
}

// The bytes of members are compared as Redis does, not as text.
func TestGetPage_OrdersEqualScoresByBytes(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		f := feed(t, rdb, FeedSpec[int, string]{Len: 100, Score: func(string) float64 { return 1e17 + 2 }})
		want := []string{"", "\x00", "\x00\x00", "A", "B", "a", "a\x00", "aa", "b", "~", "\x80", "\xc1", "\xc1H\x01V12345678", "\xff", "ä"}
		for _, e := range want {
			require.NoError(t, f.Post(t.Context(), e, 1))
		}
		slices.Sort(want)
		slices.Reverse(want)
		for n := 1; n < 4; n++ {
			require.Equal(t, want, pages(t, f, 1, n), n)
		}
	})
}

func TestGetPage_ContinuesAfterARemovedElement(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, f := t.Context(), feed(t, rdb, FeedSpec[int, string]{})
		for _, e := range []string{"10", "11", "12", "13", "20"} {
			require.NoError(t, f.Post(ctx, e, 1))
		}
		first, next, err := f.GetPage(ctx, 1, "", 3)
		require.NoError(t, err)
		require.Equal(t, []string{"20", "13", "12"}, first)
		require.NoError(t, f.Remove(ctx, "12", 1), "that of the cursor")
		require.NoError(t, f.Remove(ctx, "20", 1))
		require.NoError(t, f.Post(ctx, "30", 1), "which is before it")
		second, next, err := f.GetPage(ctx, 1, next, 1)
		require.NoError(t, err)
		require.Equal(t, []string{"11"}, second)
		third, next, err := f.GetPage(ctx, 1, next, 1)
		require.NoError(t, err)
		require.Equal(t, []string{"10"}, third)
		require.Empty(t, next)
	})
}

func TestGetPage_MergesTimelinesInOneRoundTrip(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, f := t.Context(), feed(t, rdb, FeedSpec[int, string]{Len: 20})
		outboxes, err := NewFeed(rdb, FeedSpec[string, string]{Key: redistest.Key(t) + ":{author}", TTL: cachex.Forever, Len: 20, Score: tens})
		require.NoError(t, err)
		for i := range 12 {
			elem := fmt.Sprint(100 + i)
			if i%2 == 0 || i > 8 {
				require.NoError(t, f.Post(ctx, elem, 1))
			}
			if i%2 == 1 {
				require.NoError(t, outboxes.Post(ctx, elem, "star"))
			}
			if i%3 == 1 {
				require.NoError(t, outboxes.Post(ctx, elem, "comet"))
			}
		}
		others := []Timeline[string]{outboxes.Timeline("star"), outboxes.Timeline("comet"), outboxes.Timeline("nobody")}
		want := []string{"111", "110", "109", "108", "107", "106", "105", "104", "103", "102", "101", "100"}
		for n := 1; n < 14; n++ {
			require.Equal(t, want, pages(t, f, 1, n, others...), n)
		}
		trips := new(redistest.Counter)
		rdb.AddHook(trips)
		_, _, err = f.GetPage(ctx, 1, "", 5, others...)
		require.NoError(t, err)
		require.Equal(t, 1, trips.RoundTrips())
		require.Equal(t, 4, trips.Count("evalsha"))
	})
}

func TestGetPage_RestoresTimelinesConcurrently(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource[[]string]()
		f := feed(t, rdb, FeedSpec[int, string]{Up: s.up})
		type page struct {
			elems []string
			next  Cursor
			err   error
		}
		ch := make(chan page, 1)
		go func() { // ends with GetPage
			elems, next, err := f.GetPage(t.Context(), 1, "", 3, f.Timeline(2), f.Timeline(3))
			ch <- page{elems, next, err}
		}()
		loads := []*load[[]string]{receive(t, s.began), receive(t, s.began), receive(t, s.began)}
		for _, l := range loads {
			l.returns([]string{fmt.Sprint(10 * l.id)}, nil)
		}
		require.Equal(t, page{elems: []string{"30", "20", "10"}}, receive(t, ch))
		require.Equal(t, []string{"30", "20", "10"}, pages(t, f, 1, 1, f.Timeline(2), f.Timeline(3)))
		s.idle(t)
	})
}

func TestGetPage_RejectsAnInvalidCursor(t *testing.T) {
	t.Parallel()
	f := feed(t, closedClient(t), FeedSpec[int, string]{})
	nan := base64.RawURLEncoding.EncodeToString([]byte("\x7f\xf8\x00\x00\x00\x00\x00\x01a"))
	for _, c := range []Cursor{"x", "?", "AAAAAAAAAA", Cursor(nan), "\n"} {
		_, _, err := f.GetPage(t.Context(), 1, c, 1)
		require.ErrorIs(t, err, ErrCursor, "%q", c)
	}
	for _, n := range []int{0, -1, maxPage + 1} {
		_, _, err := f.GetPage(t.Context(), 1, "", n)
		require.ErrorContains(t, err, fmt.Sprintf("n is %d, must be from 1 to 1000", n))
	}
	_, _, err := f.GetPage(t.Context(), 1, "", 1, Timeline[string]{})
	require.ErrorContains(t, err, "others contains a zero Timeline")
	_, _, err = f.GetPage(t.Context(), 1, "", 1)
	require.ErrorIs(t, err, redis.ErrClosed)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = f.GetPage(ctx, 1, "", 1)
	require.ErrorIs(t, err, context.Canceled)
}

func FuzzCursor_RoundTrips(f *testing.F) {
	f.Add(string(position{12.5, "elem"}.cursor()))
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Cursor(s).position()
		if err == nil && p != nil {
			again, err := p.cursor().position()
			require.NoError(t, err)
			require.Equal(t, p, again)
		}
	})
}
