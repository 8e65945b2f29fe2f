package sizes

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/collection"
	"github.com/cachex-go/cachex/internal/redistest"
)

// admits are the arguments of a server that admits no argument above 1 MB.
var admits = []string{"--proto-max-bulk-len", "1mb"}

var tooLarge = strings.Repeat("x", 2<<20)

// strict are the topologies, of servers that admit no argument above 1 MB.
var strict = map[string]func(t *testing.T) redis.UniversalClient{
	"server": func(t *testing.T) redis.UniversalClient { return redistest.Start(t, admits...).Client(nil) },
	"AutoPipeline": func(t *testing.T) redis.UniversalClient {
		auto, err := redistest.Start(t, admits...).Client(nil).AutoPipeline()
		require.NoError(t, err)
		t.Cleanup(func() { _ = auto.Close() })
		return auto
	},
	"cluster": func(t *testing.T) redis.UniversalClient {
		return redistest.StartCluster(t, 3, redistest.WithArgs(admits...)).Client(nil)
	},
}

// A server that takes no arguments above 1 MB closes the connection on one. The other
// commands of the pipeline failed with it, again and again, and so did the next command
// that the client sent by that connection.
func TestOneValueThatIsTooLarge_FailsAlone(t *testing.T) {
	t.Parallel()
	const n, bad = 301, 150
	values := goods("up", numbers(0, n)...)
	values[bad] = tooLarge
	small := goods("up", numbers(0, n)...)
	delete(small, bad)
	readsAll := func(t *testing.T, got map[int]string, err error) {
		t.Helper()
		require.NoError(t, err)
		require.Len(t, got, n)
	}
	refused := func(t *testing.T, through bool, err error) {
		t.Helper()
		if through { // it is persisted, and the next reader loads it
			require.NoError(t, err)
			return
		}
		require.ErrorContains(t, err, ":150: ")
		require.ErrorContains(t, err, "proto-max-bulk-len")
		require.NotErrorIs(t, err, cachex.ErrOutcomeUnknown)
	}
	calls := map[string]func(t *testing.T, c *cache, through bool){
		"GetMany": func(t *testing.T, c *cache, _ bool) {
			got, err := c.GetMany(t.Context(), numbers(0, n))
			readsAll(t, got, err)
		},
		"batch": func(t *testing.T, c *cache, _ bool) {
			var b batch.Batch
			all := batch.GetMany(&b, c, numbers(0, n))
			require.NoError(t, b.Run(t.Context()))
			got, err := all.Get()
			readsAll(t, got, err)
		},
		"SetMany": func(t *testing.T, c *cache, through bool) { refused(t, through, c.SetMany(t.Context(), values)) },
		"Set": func(t *testing.T, c *cache, through bool) {
			var all sync.WaitGroup
			for id, v := range values {
				all.Go(func() {
					if err := c.Set(t.Context(), id, v); id == bad {
						refused(t, through, err)
					} else {
						require.NoError(t, err)
					}
				})
			}
			all.Wait()
		},
		"Get": func(t *testing.T, c *cache, _ bool) {
			var all sync.WaitGroup
			for id, want := range values {
				all.Go(func() {
					got, err := c.Get(t.Context(), id)
					require.NoError(t, err)
					require.True(t, want == got)
				})
			}
			all.Wait()
		},
		"Wrap": func(t *testing.T, c *cache, _ bool) {
			get := c.Wrap(func(_ context.Context, id int) (string, error) { return values[id], nil })
			for id, want := range values {
				got, err := get(t.Context(), id)
				require.NoError(t, err)
				require.True(t, want == got)
			}
		},
	}
	for topology, start := range strict {
		t.Run(topology, func(t *testing.T) {
			t.Parallel()
			rdb := start(t)
			for name, call := range calls {
				for variant, one := range map[string]spec{
					"":               {},
					" by UpMany":     {UpMany: func(context.Context, []int) (map[int]string, error) { return nil, nil }},
					" with DownMany": {Down: func(context.Context, int, string) error { return nil }, DownMany: func(context.Context, map[int]string) error { return nil }},
					" kept stale":    {StaleWhileRevalidate: time.Hour},
				} {
					t.Run(name+variant, func(t *testing.T) {
						t.Parallel()
						var asked atomic.Int64
						s := one
						s.Key = strings.ReplaceAll(t.Name(), "/", "-") + ":{id}"
						if s.UpMany != nil {
							s.UpMany = func(_ context.Context, ids []int) (map[int]string, error) {
								asked.Add(int64(len(ids)))
								some := make(map[int]string, len(ids))
								for _, id := range ids {
									some[id] = values[id]
								}
								return some, nil
							}
						} else {
							s.Up = func(_ context.Context, id int) (string, error) {
								asked.Add(1)
								return values[id], nil
							}
						}
						c := newCache(t, rdb, s)
						call(t, c, s.Down != nil)
						stored, err := c.LookupMany(t.Context(), numbers(0, n))
						require.NoError(t, err)
						require.Len(t, stored, n-1)
						require.Equal(t, small, stored)
						asked.Store(0)
						got, err := c.GetMany(t.Context(), numbers(0, n))
						readsAll(t, got, err)
						require.EqualValues(t, 1, asked.Load(), "only the large value is loaded again")
						for range 5 { // in a row
							_, err := c.Get(t.Context(), bad)
							require.NoError(t, err)
						}
						stats := c.Stats()
						require.Zero(t, stats.Bypasses, "Redis is there: %v", stats)
					})
				}
			}
		})
	}
}

// Elements of collections, and what is written behind, fail alone too.
func TestOneElementThatIsTooLarge_FailsAlone(t *testing.T) {
	t.Parallel()
	for topology, start := range strict {
		t.Run(topology, func(t *testing.T) {
			t.Parallel()
			rdb, ctx := start(t), t.Context()
			up := func(context.Context, int) ([]string, error) { return []string{"a", tooLarge}, nil }
			ranked := func(context.Context, int) ([]collection.Scored[string], error) {
				return []collection.Scored[string]{{Member: "a"}, {Member: tooLarge}}, nil
			}
			recent := cachex.Must(collection.NewRecent(rdb, collection.RecentSpec[int, string]{Key: "recent:{id}", TTL: time.Hour, Len: 10}))
			set := cachex.Must(collection.NewSet(rdb, collection.SetSpec[int, string]{Key: "set:{id}", TTL: time.Hour}))
			ranking := cachex.Must(collection.NewRanking(rdb, collection.RankingSpec[int, string]{Key: "ranking:{id}", TTL: time.Hour, Top: 10}))
			trending := cachex.Must(collection.NewTrending(rdb, collection.TrendingSpec[int, string]{Key: "trending:{id}", Bucket: time.Hour, Buckets: 2, Top: 10}))
			feed := cachex.Must(collection.NewFeed(rdb, collection.FeedSpec[int, string]{
				Key: "feed:{id}", TTL: time.Hour, Len: 10, Score: func(string) float64 { return 1 },
			}))
			restored := cachex.Must(collection.NewRecent(rdb, collection.RecentSpec[int, string]{Key: "restored:{id}", TTL: time.Hour, Len: 10, Up: up}))
			ranks := cachex.Must(collection.NewRanking(rdb, collection.RankingSpec[int, string]{Key: "ranks:{id}", TTL: time.Hour, Top: 10, Up: ranked}))
			for name, add := range map[string]func(id int, v string) error{
				"Recent.Push":  func(id int, v string) error { return recent.Push(ctx, id, v) },
				"Set.Add":      func(id int, v string) error { _, err := set.Add(ctx, id, v); return err },
				"Ranking.Add":  func(id int, v string) error { _, err := ranking.Add(ctx, id, v, 1); return err },
				"Ranking.Set":  func(id int, v string) error { return ranking.Set(ctx, id, v, 1) },
				"Trending.Add": func(id int, v string) error { _, err := trending.Add(ctx, id, v, 1); return err },
				"Feed.Post":    func(id int, v string) error { return feed.Post(ctx, v, id) },
				"Recent.Get": func(id int, _ string) error {
					got, err := restored.Get(ctx, id)
					require.Len(t, got, 2)
					return err
				},
				"Ranking.Get": func(id int, _ string) error {
					got, err := ranks.Get(ctx, id)
					require.Len(t, got, 2)
					return err
				},
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					gets := strings.HasSuffix(name, ".Get")
					var all sync.WaitGroup
					for id := range 100 {
						all.Go(func() {
							v := "short"
							if id%10 == 0 {
								v = tooLarge
							}
							switch err := add(id, v); {
							case id%10 > 0 || gets:
								require.NoError(t, err, "%d", id)
							default:
								require.ErrorContains(t, err, "proto-max-bulk-len")
								require.NotErrorIs(t, err, cachex.ErrOutcomeUnknown)
							}
						})
					}
					all.Wait()
				})
			}
			t.Run("write-behind", func(t *testing.T) {
				t.Parallel()
				var mu sync.Mutex
				persisted := map[int]string{}
				c := newCache(t, rdb, spec{
					Key: "behind:{id}", WriteBehind: time.Hour,
					DownMany: func(_ context.Context, values map[int]string) error {
						mu.Lock()
						defer mu.Unlock()
						for id, v := range values {
							persisted[id] = v
						}
						return nil
					},
				})
				values := goods("set", numbers(0, 301)...)
				values[150] = tooLarge
				err := c.SetMany(ctx, values)
				require.ErrorContains(t, err, ":150: ")
				require.NotErrorIs(t, err, cachex.ErrOutcomeUnknown)
				require.NoError(t, c.Flush(ctx))
				mu.Lock()
				defer mu.Unlock()
				require.Len(t, persisted, 300)
				delete(values, 150)
				require.Equal(t, fmt.Sprint(values), fmt.Sprint(persisted))
			})
		})
	}
}

// Large values take a round trip each, together longer than a lease holds: the leases are
// renewed until the last one is stored.
func TestLargeValues_AreStoredHoweverManyRoundTripsTheyTake(t *testing.T) {
	t.Parallel()
	const n = 12
	for name, call := range map[string]func(t *testing.T, c *cache, values map[int]string) error{
		"GetMany": func(t *testing.T, c *cache, _ map[int]string) error {
			got, err := c.GetMany(t.Context(), numbers(0, n))
			require.Len(t, got, n)
			return err
		},
		"SetMany": func(t *testing.T, c *cache, values map[int]string) error { return c.SetMany(t.Context(), values) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Bubble(t, func(t *testing.T, plain *redis.Client) {
				values := make(map[int]string, n)
				for id := range n {
					values[id] = strings.Repeat(fmt.Sprint(id%10), 3<<19)
				}
				down := func(context.Context, int, string) error { return nil }
				s := spec{
					Key: "k:{id}", LeaseTTL: time.Second, Down: down, DownMany: func(context.Context, map[int]string) error { return nil },
					UpMany: func(context.Context, []int) (map[int]string, error) { return values, nil },
				}
				c := newCache(t, slowed(t, plain, 300*time.Millisecond), s)
				require.NoError(t, call(t, c, values))
				stats := c.Stats()
				require.Zero(t, stats.Fenced+stats.StoreFailures+stats.RedisFailures, "%v", stats)
				stored, err := newCache(t, plain, s).LookupMany(t.Context(), numbers(0, n))
				require.NoError(t, err)
				require.Len(t, stored, n)
			})
		})
	}
}
