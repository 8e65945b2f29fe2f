package collection

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// is reports whether cmd runs s.
func is(cmd redis.Cmder, s *script.Script) bool {
	args := cmd.Args()
	return len(args) > 1 && (args[1] == s.Source() || args[1] == s.SHA())
}

func TestRead_SurvivesTheLossOfAnyOneCommand(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		warm := recent(t, rdb, RecentSpec[int, int]{Up: func(context.Context, int) ([]int, error) { return []int{1}, nil }})
		has(t, &warm.store, 1, []int{1}) // the server knows the scripts
		for _, executed := range []bool{true, false} {
			for skip := range 4 {
				client, faults := again(t, rdb), new(redistest.Faults)
				client.AddHook(faults)
				r := recent(t, client, RecentSpec[int, int]{LeaseTTL: time.Hour, Up: func(context.Context, int) ([]int, error) { return []int{1}, nil }})
				faults.Add(redistest.Fault{Skip: skip, Executed: executed})
				what := fmt.Sprintf("command %d, executed %v", skip, executed)
				has(t, &r.store, 1, []int{1}, what)
				has(t, &r.store, 1, []int{1}, what) // no reader waits for a lost lease
			}
		}
	})
}

func TestRead_WithoutRedisFailsOnlyWithoutASource(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", DialerRetries: 1, MaxRetries: -1})
	t.Cleanup(func() { _ = rdb.Close() })
	calls := 0
	up := recent(t, rdb, RecentSpec[int, int]{Up: func(context.Context, int) ([]int, error) { calls++; return []int{1}, nil }})
	r := recent(t, rdb, RecentSpec[int, int]{})
	has(t, &up.store, 1, []int{1})
	has(t, &up.store, 1, []int{1})
	require.Equal(t, 2, calls)
	_, err := r.Get(t.Context(), 1)
	require.Error(t, err)
	for _, c := range []*Recent[int, int]{r, up} {
		require.Error(t, c.Push(t.Context(), 1, 2))
		require.Error(t, c.Remove(t.Context(), 1, 2))
		require.Error(t, c.Delete(t.Context(), 1))
	}
}

// After a refused connection only probes reach Redis. A reader without a source
// gets its error at once. When Redis is back, all readers return to it.
func TestBreaker_SparesReadersAnUnreachableRedis(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, back *redis.Client) {
		var gone atomic.Bool
		gone.Store(true)
		o := *back.Options()
		dial := o.Dialer
		o.PushNotificationProcessor = nil
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if gone.Load() {
				return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
			}
			return dial(ctx, network, addr)
		}
		rdb := redis.NewClient(&o)
		defer func() { _ = rdb.Close() }()
		up := func(context.Context, int) ([]string, error) { return []string{"10"}, nil }
		latest := recent(t, rdb, RecentSpec[int, string]{Up: up})
		users := set(t, rdb, SetSpec[int, string]{Up: up})
		posts := feed(t, rdb, FeedSpec[int, string]{Up: up})
		alone := recent(t, rdb, RecentSpec[int, string]{})
		lately := trending(t, rdb, TrendingSpec[int, string]{})
		has(t, &latest.store, 1, []string{"10"})
		require.EqualValues(t, 1, latest.Stats().RedisFailures, "it is the client that has tried")

		began := time.Now()
		for range 3 {
			has(t, &latest.store, 1, []string{"10"})
			n, err := users.Len(t.Context(), 1)
			require.NoError(t, err)
			require.EqualValues(t, 1, n)
			page, _, err := posts.GetPage(t.Context(), 1, "", 5, posts.Timeline(2))
			require.NoError(t, err)
			require.Equal(t, []string{"10"}, page)
			_, err = alone.Get(t.Context(), 1)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			_, err = lately.Get(t.Context(), 1)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			var b batch.Batch
			restored, missing := batch.Get(&b, latest, 2), batch.Get(&b, alone, 2)
			require.ErrorIs(t, b.Run(t.Context()), syscall.ECONNREFUSED)
			requireValue(t, []string{"10"}, restored)
			_, err = missing.Get()
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
		}
		require.Zero(t, time.Since(began))
		s := latest.Stats()
		require.EqualValues(t, []int64{1, 6, 7, 7}, []int64{s.RedisFailures, s.Bypasses, s.Misses, s.Loads})
		require.Equal(t, cachex.BreakerOpen, s.Breaker)

		gone.Store(false)
		require.Eventually(t, func() bool {
			_, err := lately.Get(t.Context(), 1) // which has the probe sent
			return err == nil
		}, patience, 10*time.Millisecond)
		has(t, &latest.store, 1, []string{"10"})
		has(t, &latest.store, 1, []string{"10"})
		require.EqualValues(t, 8, latest.Stats().Loads, "it is stored, and read")
	})
}

// A caller that comes during a load without Redis may have come after a
// deletion by another process, which reaches Redis.
func TestRestore_WithoutRedisIsNotSharedWithLaterCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSource[[]int]()
		r, err := NewRecent(closedClient(t), RecentSpec[int, int]{Key: "r:{id}", TTL: time.Minute, Len: 3, MaxLoads: 1, Up: s.up})
		require.NoError(t, err)
		before := asking(t.Context(), &r.store, 1)
		load := receive(t, s.began)
		after, other := asking(t.Context(), &r.store, 1), asking(t.Context(), &r.store, 2)
		synctest.Wait()
		s.idle(t) // there is a free slot
		load.returns([]int{1}, nil)
		require.Equal(t, answer[[]int]{[]int{1}, nil}, <-before)
		for range 2 {
			load = receive(t, s.began)
			synctest.Wait()
			s.idle(t)
			load.returns([]int{2}, nil)
		}
		require.Equal(t, answer[[]int]{[]int{2}, nil}, <-after)
		require.Equal(t, answer[[]int]{[]int{2}, nil}, <-other)
	})
}

func TestPush_WithALostReplyIsAnUnknownOutcomeAndSentOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		warm := recent(t, rdb, RecentSpec[int, int]{})
		require.NoError(t, warm.Push(t.Context(), 1, 1))
		proxy := redistest.NewProxy(t, rdb.Options().Addr)
		client := redis.NewClient(&redis.Options{Addr: proxy.Addr(), PoolSize: 1, ReadTimeout: redistest.Patience})
		t.Cleanup(func() { _ = client.Close() })
		for _, unique := range []bool{false, true} {
			r := recent(t, client, RecentSpec[int, int]{Unique: unique})
			require.NoError(t, client.Ping(t.Context()).Err()) // to connect
			proxy.LoseReplies(1)
			require.ErrorIs(t, r.Push(t.Context(), 1, 7), ErrOutcomeUnknown)
			has(t, &r.store, 1, []int{7})
		}
	})
}

func TestWrite_WithAMalformedReplyIsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		for _, reply := range []any{"QUEUED", []any{}, []any{"x", []any{}}, []any{int64(1), "x"}, []any{int64(1), []any{"x"}}} {
			garbled, faults := again(t, rdb), new(redistest.Faults)
			garbled.AddHook(faults)
			faults.Add(redistest.Fault{Match: redistest.Named("eval", "evalsha"), Times: redistest.Always, Reply: reply})
			list, key := recent(t, garbled, RecentSpec[int, int]{}), 0
			board := ranking(t, garbled, RankingSpec[int, string]{})
			members := set(t, garbled, SetSpec[int, string]{})
			trend := trending(t, garbled, TrendingSpec[int, string]{})
			for _, c := range []struct {
				what  string
				write func() error
			}{
				{"Push", func() error { return list.Push(ctx, key, 1) }},
				{"Remove", func() error { return list.Remove(ctx, key, 1) }},
				{"Ranking.Add", func() error { _, err := board.Add(ctx, key, "a", 1); return err }},
				{"Ranking.Set", func() error { return board.Set(ctx, key, "a", 1) }},
				{"Set.Add", func() error { _, err := members.Add(ctx, key, "a"); return err }},
				{"Trending.Add", func() error { _, err := trend.Add(ctx, key, "a", 1); return err }},
			} {
				err := c.write()
				require.ErrorIs(t, err, errReply, "%s, answered %v", c.what, reply)
				require.ErrorIs(t, err, ErrOutcomeUnknown, "%s, answered %v", c.what, reply)
			}
		}
	})
}

func TestCollections_WorkOnAClusterAndThroughTwemproxy(t *testing.T) {
	t.Parallel()
	for kind, start := range map[string]func(*testing.T) redis.UniversalClient{
		"cluster": func(t *testing.T) redis.UniversalClient { return redistest.StartCluster(t, 3).Client(nil) },
		"twemproxy": func(t *testing.T) redis.UniversalClient {
			return redistest.StartTwemproxy(t, 0, redistest.Start(t).Addr(), redistest.Start(t).Addr())
		},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			rdb := start(t)
			for _, try := range anywhere {
				try(t, rdb)
			}
		})
	}
}

// anywhere lists, for each type, the checks that must pass wherever Redis runs.
var anywhere = []func(t *testing.T, rdb redis.UniversalClient){recentAnywhere, rankingAnywhere, setAnywhere, feedAnywhere, trendingAnywhere}

func recentAnywhere(t *testing.T, rdb redis.UniversalClient) {
	r := recent(t, rdb, RecentSpec[int, int]{Up: func(_ context.Context, id int) ([]int, error) { return []int{id}, nil }})
	for id := range 30 { // on all nodes
		has(t, &r.store, id, []int{id})
		require.NoError(t, r.Push(t.Context(), id, 100, 200))
		has(t, &r.store, id, []int{200, 100, id})
		require.NoError(t, r.Remove(t.Context(), id, 100))
		has(t, &r.store, id, []int{200, id})
		require.NoError(t, r.Delete(t.Context(), id))
		has(t, &r.store, id, []int{id})
	}
}
