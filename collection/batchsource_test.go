package collection

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/loader"
)

// Every type is a batch.Source.
var (
	_ batch.Source[int, []string]         = (*Recent[int, string])(nil)
	_ batch.Source[int, []Scored[string]] = (*Ranking[int, string])(nil)
	_ batch.Source[int, []string]         = (*Set[int, string])(nil)
	_ batch.Source[int, []string]         = (*Feed[int, string])(nil)
	_ batch.Source[int, []Scored[string]] = (*Trending[int, string])(nil)
)

// shelf has a collection of each type and a cache, on one client.
type shelf struct {
	names  *cachex.Cache[int, string]
	latest *Recent[int, string]
	top    *Ranking[int, string]
	users  *Set[int, string]
	posts  *Feed[int, string]
	lately *Trending[int, string]
}

func shelfOf(t testing.TB, rdb redis.UniversalClient, up func(context.Context, int) ([]string, error)) *shelf {
	t.Helper()
	names, err := cachex.New(rdb, cachex.Spec[int, string]{
		Key: redistest.Key(t) + ":{id}", TTL: someTTL,
		Up: func(ctx context.Context, id int) (string, error) {
			_, err := up(ctx, id)
			return "Ada", err
		},
	})
	require.NoError(t, err)
	closing(t, names)
	return &shelf{
		names:  names,
		latest: recent(t, rdb, RecentSpec[int, string]{Up: up}),
		top: ranking(t, rdb, RankingSpec[int, string]{Top: 2, Up: func(ctx context.Context, id int) (board, error) {
			_, err := up(ctx, id)
			return board{{"a", 1}, {"b", 2}, {"c", 3}}, err
		}}),
		users:  set(t, rdb, SetSpec[int, string]{Up: up}),
		posts:  feed(t, rdb, FeedSpec[int, string]{Up: up}),
		lately: trending(t, rdb, TrendingSpec[int, string]{}),
	}
}

// read reads one of each in a Batch, and requires the expected values.
func (s *shelf) read(t testing.TB, id int) {
	t.Helper()
	var b batch.Batch
	name := batch.Get(&b, s.names, id)
	latest := batch.Get(&b, s.latest, id)
	top := batch.GetMany(&b, s.top, []int{id, id, id + 1})
	users := batch.Get(&b, s.users, id)
	posts := batch.Get(&b, s.posts, id)
	lately := batch.GetMany(&b, s.lately, []int{id, id + 1})
	require.NoError(t, b.Run(t.Context()))
	requireValue(t, "Ada", name)
	requireValue(t, []string{"10"}, latest)
	requireValue(t, map[int]board{id: {{"c", 3}, {"b", 2}}, id + 1: {{"c", 3}, {"b", 2}}}, top)
	requireValue(t, []string{"10"}, users)
	requireValue(t, []string{"10"}, posts)
	requireValue(t, map[int]board{id: {}, id + 1: {}}, lately)
}

func requireValue[V any](t testing.TB, want V, v *batch.Value[V]) {
	t.Helper()
	got, err := v.Get()
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestBatch_WarmIsOneRoundTrip(t *testing.T) {
	t.Parallel()
	road := new(redistest.Roadside)
	rdb := road.Client(t, redistest.Shared(t).Client(nil))
	require.NoError(t, rdb.ScriptLoad(t.Context(), script.Trends.Source()).Err())
	s := shelfOf(t, rdb, posted("10"))
	s.read(t, 1)
	before := road.Trips()
	s.read(t, 1)
	require.Equal(t, 1, road.Trips()-before)
}

// A cold batch reads, acquires all leases, and stores everything, in three
// round trips. It runs in a bubble: a load waits at most 50 ms for the others,
// and a machine that pauses that long separates them.
func TestBatch_ColdIsThreeRoundTrips(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, plain *redis.Client) {
		road := new(redistest.Roadside)
		rdb := road.Client(t, plain)
		for _, s := range []*script.Script{
			script.Trends, script.Acquire, script.Store, script.List.Acquire, script.List.Store,
			script.Ranking.Acquire, script.Ranking.Store, script.Set.Acquire, script.Set.Store,
		} {
			require.NoError(t, rdb.ScriptLoad(t.Context(), s.Source()).Err())
		}
		_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error { // on a connection of its own
			p.Ping(t.Context())
			p.Ping(t.Context())
			return nil
		})
		require.NoError(t, err)
		s := shelfOf(t, rdb, func(context.Context, int) ([]string, error) {
			time.Sleep(50 * time.Millisecond)
			return []string{"10"}, nil
		})
		before := road.Trips()
		s.read(t, 1)
		require.Equal(t, 3, road.Trips()-before)
		before = road.Trips()
		s.read(t, 1)
		require.Equal(t, 1, road.Trips()-before)
	})
}

func TestBatch_RestoresConcurrently(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		began, all := make(chan bool, 10), make(chan bool)
		s := shelfOf(t, rdb, func(context.Context, int) ([]string, error) {
			began <- true
			<-all
			return []string{"10"}, nil
		})
		go func() { // ends when all loads are under way
			for range 6 { // the cache, and five of collections
				<-began
			}
			close(all)
		}()
		s.read(t, 1) // also if the server does not know the script of the window
		require.Empty(t, began)
		s.read(t, 1)
		require.Empty(t, began, "they are there")
	})
}

func TestBatch_FailureOfOneLeavesTheOthers(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		r := recent(t, rdb, RecentSpec[int, string]{Up: func(_ context.Context, id int) ([]string, error) {
			switch id {
			case 1:
				return nil, io.ErrNoProgress
			case 2:
				panic("of Up")
			}
			return []string{"10"}, nil
		}})
		alone := recent(t, rdb, RecentSpec[int, string]{})
		require.NoError(t, rdb.Set(t.Context(), name(t, &alone.store, 1), "foreign", 0).Err())
		var b batch.Batch
		many := batch.GetMany(&b, r, []int{3, 1, 4})
		panics := batch.Get(&b, r, 2)
		foreign, empty := batch.Get(&b, alone, 1), batch.Get(&b, alone, 2)
		require.NoError(t, b.Run(t.Context()), "they are errors of keys")
		got, err := many.Get()
		require.ErrorIs(t, err, io.ErrNoProgress)
		require.Equal(t, map[int][]string{3: {"10"}, 4: {"10"}}, got)
		e, ok := errors.AsType[*cachex.Error](err)
		require.True(t, ok)
		require.Equal(t, "get", e.Op)
		require.Equal(t, name(t, &r.store, 1), e.Key)
		_, err = panics.Get()
		_, panicked := errors.AsType[*loader.PanicError](err)
		require.True(t, panicked, err)
		_, err = foreign.Get()
		require.ErrorIs(t, err, ErrForeign)
		requireValue(t, nil, empty)
	})
}

func TestBatch_WithoutRedisReadsTheSources(t *testing.T) {
	t.Parallel()
	rdb := closedClient(t)
	r, alone := recent(t, rdb, RecentSpec[int, string]{Up: posted("10")}), set(t, rdb, SetSpec[int, string]{})
	window := trending(t, rdb, TrendingSpec[int, string]{})
	var b batch.Batch
	restored, missing, lately := batch.Get(&b, r, 1), batch.Get(&b, alone, 1), batch.Get(&b, window, 1)
	require.ErrorIs(t, b.Run(t.Context()), redis.ErrClosed)
	requireValue(t, []string{"10"}, restored)
	_, err := missing.Get()
	require.ErrorIs(t, err, redis.ErrClosed)
	_, err = lately.Get()
	require.ErrorIs(t, err, redis.ErrClosed)
}

func TestBatch_ReaderLeavesARestorationWithItsContext(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource[[]string]()
		r := recent(t, rdb, RecentSpec[int, string]{Up: s.up})
		ch := asking(t.Context(), &r.store, 2)
		receive(t, s.began).returns([]string{"10"}, nil)
		receive(t, ch)
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("enough")
		var b batch.Batch
		late, there := batch.Get(&b, r, 1), batch.Get(&b, r, 2)
		ran := make(chan error, 1)
		go func() { ran <- b.Run(ctx) }() // ends with ctx
		load := receive(t, s.began)
		cancel(why)
		require.ErrorIs(t, receive(t, ran), why)
		requireValue(t, []string{"10"}, there)
		_, err := late.Get()
		require.ErrorIs(t, err, why)
		load.returns(nil, why)
	})
}
