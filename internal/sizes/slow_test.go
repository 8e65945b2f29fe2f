package sizes

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/collection"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/gate"
	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/writebehind"
)

// slow is how long one command may keep the server from others, by its own clock.
const slow = 5 * time.Millisecond

// tries is how often each call is made at most. The best of them counts: on a busy machine
// a quick command takes long now and then.
const tries = 8

// A load is a call at the largest size that a Spec admits. prepare is not measured.
type load struct {
	name    string
	prepare func(t *testing.T, ctx context.Context)
	do      func(t *testing.T, ctx context.Context)
}

// TestServer_IsNotKeptFromOthers holds the rule that no command of ours takes the server
// more than 5 ms, at the largest sizes that a Spec admits. Each script is in it, or in
// elsewhere.
func TestServer_IsNotKeptFromOthers(t *testing.T) {
	server := redistest.Start(t, "--slowlog-log-slower-than", fmt.Sprint(slow.Microseconds()), "--slowlog-max-len", "10000")
	rdb := server.Client(nil)
	var sent scripts
	rdb.AddHook(&sent)
	ctx := t.Context()
	for _, l := range slices.Concat(lists(t, rdb), sets(t, rdb), rankings(t, rdb), trendings(t, rdb), feeds(t, rdb),
		packed(t, rdb), entries(t, rdb), counts(t, rdb), gates(t, rdb), behind(t, rdb)) {
		t.Run(l.name, func(t *testing.T) {
			var best []redis.SlowLog
			for try := range tries {
				if l.prepare != nil {
					l.prepare(t, ctx)
				}
				require.NoError(t, rdb.SlowLogReset(ctx).Err())
				l.do(t, ctx)
				slowest, err := rdb.SlowLogGet(ctx, 10000).Result()
				require.NoError(t, err)
				if try == 0 || most(slowest) < most(best) {
					best = slowest
				}
				if len(best) == 0 {
					return
				}
			}
			for _, s := range best[:min(len(best), 3)] {
				t.Errorf("%v: %.80q", s.Duration, fmt.Sprint(s.Args))
			}
		})
	}
	seen := map[string]bool{}
	for _, s := range script.All() {
		seen[s.Name()] = seen[s.Name()] || sent.has(s)
	}
	for _, s := range script.All() {
		walked := seen[s.Name()] && (s.Packed() == nil || sent.has(s.Packed()))
		require.True(t, walked || elsewhere[s.Name()] != "", "script %s is not in the walk", s.Name())
	}
	for name := range elsewhere {
		require.True(t, slices.ContainsFunc(script.All(), func(s *script.Script) bool { return s.Name() == name }), "no script %s", name)
	}
}

const (
	oneHeader = "reads and writes one header, or one field, whatever the entry has"
	someIDs   = "moves at most 100 ids: TestTakeBatch_CostsTheSameWhateverIsPending"
)

// elsewhere has the scripts that are not in the walk, and why.
var elsewhere = map[string]string{
	"renew": oneHeader, "extend": oneHeader, "wake": oneHeader, "expire": oneHeader, "release": oneHeader,
	"extend list": oneHeader, "extend ranking": oneHeader, "extend set": oneHeader,
	"release list": oneHeader, "release ranking": oneHeader, "release set": oneHeader,
	"take turn": oneHeader, "extend turn": oneHeader, "end turn": oneHeader, "return turn": oneHeader,
	"hold batch": oneHeader, "renumber batch": oneHeader, "retry refused": oneHeader, "survey batch": oneHeader,
	"subtract batch": someIDs, "drop batch": someIDs, "rescue unread": someIDs, "unpark batch": someIDs,
	"list unread":  someIDs,
	"list refused": "returns all that a user asked for by Refused, of ids that Down refused for good",
	"look batch":   "looks at most at 1000 ids",
	"park batch":   "moves a whole batch, of a process that cannot read it: 4 to 6 ms for 1,000 ids",
	"settle batch": "forgets a whole batch of that kind",
}

// scripts is a hook that notes which scripts are sent.
type scripts struct {
	mu   sync.Mutex
	shas map[string]bool // guarded by mu
}

func (h *scripts) has(s *script.Script) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.shas[s.SHA()]
}

func (h *scripts) note(cmds ...redis.Cmder) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.shas == nil {
		h.shas = make(map[string]bool)
	}
	for _, cmd := range cmds {
		if sha, ok := cmd.Args()[min(1, len(cmd.Args())-1)].(string); ok && cmd.Name() == "evalsha" {
			h.shas[sha] = true
		}
	}
}

func (h *scripts) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *scripts) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { h.note(cmd); return next(ctx, cmd) }
}

func (h *scripts) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { h.note(cmds...); return next(ctx, cmds) }
}

// most returns what the slowest command took.
func most(logs []redis.SlowLog) (d time.Duration) {
	for _, l := range logs {
		d = max(d, l.Duration)
	}
	return d
}

// words returns n strings that differ.
func words(first, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint("element-", first+i)
	}
	return all
}

// longest is how many elements a list may have.
const longest = 10_000

func lists(t *testing.T, rdb *redis.Client) []load {
	newList := func(name string, s collection.RecentSpec[int, string]) *collection.Recent[int, string] {
		s.Key, s.TTL, s.Len = name+":{id}", time.Hour, longest
		return cachex.Must(collection.NewRecent(rdb, s))
	}
	once, twice := newList("once", collection.RecentSpec[int, string]{Unique: true}), newList("twice", collection.RecentSpec[int, string]{})
	restored := newList("restored", collection.RecentSpec[int, string]{Unique: true, Up: func(context.Context, int) ([]string, error) {
		return words(0, longest), nil
	}})
	full := func(l *collection.Recent[int, string]) func(*testing.T, context.Context) {
		return func(t *testing.T, ctx context.Context) {
			if all, err := l.Get(ctx, 1); err != nil || len(all) < longest {
				require.NoError(t, l.Delete(ctx, 1))
				require.NoError(t, l.Push(ctx, 1, words(0, longest)...))
			}
		}
	}
	return []load{
		{"Recent.Push of 10,000", nil, full(twice)},
		{"Recent.Push of 1,000, Unique", full(once), func(t *testing.T, ctx context.Context) {
			require.NoError(t, once.Push(ctx, 1, words(longest/2, 1000)...))
		}},
		{"Recent.Push of 1,000 new ones, Unique", full(once), func(t *testing.T, ctx context.Context) {
			require.NoError(t, once.Push(ctx, 1, words(longest, 1000)...))
		}},
		{"Recent.Remove of 1,000", full(twice), func(t *testing.T, ctx context.Context) {
			require.NoError(t, twice.Remove(ctx, 1, words(longest/2, 1000)...))
		}},
		{"Recent.Get", full(twice), func(t *testing.T, ctx context.Context) {
			all, err := twice.Get(ctx, 1)
			require.NoError(t, err)
			require.Len(t, all, longest)
		}},
		{"Recent.Get, restored, Unique", func(t *testing.T, ctx context.Context) { require.NoError(t, restored.Delete(ctx, 1)) }, func(t *testing.T, ctx context.Context) {
			all, err := restored.Get(ctx, 1)
			require.NoError(t, err)
			require.Len(t, all, longest)
		}},
		{"Recent.Delete", full(twice), func(t *testing.T, ctx context.Context) { require.NoError(t, twice.Delete(ctx, 1)) }},
	}
}

func sets(t *testing.T, rdb *redis.Client) []load {
	const n = 100_000
	set := cachex.Must(collection.NewSet(rdb, collection.SetSpec[int, string]{Key: "set:{id}", TTL: time.Hour}))
	restored := cachex.Must(collection.NewSet(rdb, collection.SetSpec[int, string]{
		Key: "restored-set:{id}", TTL: time.Hour, Up: func(context.Context, int) ([]string, error) { return words(0, n), nil },
	}))
	full := func(t *testing.T, ctx context.Context) {
		_, err := set.Add(ctx, 1, words(0, n)...)
		require.NoError(t, err)
	}
	return []load{
		{"Set.Add of 100,000", func(t *testing.T, ctx context.Context) { require.NoError(t, set.Delete(ctx, 1)) }, func(t *testing.T, ctx context.Context) {
			added, err := set.Add(ctx, 1, words(0, n)...)
			require.NoError(t, err)
			require.EqualValues(t, n, added)
		}},
		{"Set.Remove of 100,000", full, func(t *testing.T, ctx context.Context) { require.NoError(t, set.Remove(ctx, 1, words(0, n)...)) }},
		{"Set.Len, restored", func(t *testing.T, ctx context.Context) { require.NoError(t, restored.Delete(ctx, 1)) }, func(t *testing.T, ctx context.Context) {
			got, err := restored.Len(ctx, 1)
			require.NoError(t, err)
			require.EqualValues(t, n, got)
		}},
		{"Set.Get of 100,000", full, func(t *testing.T, ctx context.Context) {
			all, err := set.Get(ctx, 1)
			require.NoError(t, err)
			require.Len(t, all, n)
		}},
		{"Set.Delete", full, func(t *testing.T, ctx context.Context) { require.NoError(t, set.Delete(ctx, 1)) }},
	}
}

func rankings(t *testing.T, rdb *redis.Client) []load {
	const n, meanwhile = 100_000, 2000
	var writes func(id int)
	ranking := cachex.Must(collection.NewRanking(rdb, collection.RankingSpec[int, string]{
		Key: "ranking:{id}", TTL: time.Hour, Top: longest, Keep: n,
		Up: func(_ context.Context, id int) ([]collection.Scored[string], error) {
			all := make([]collection.Scored[string], n)
			for i, w := range words(0, n) {
				all[i] = collection.Scored[string]{Member: w, Score: float64(i)}
			}
			writes(id)
			return all, nil
		},
	}))
	writes = func(id int) {
		if id != 2 {
			return
		}
		var all sync.WaitGroup
		for some := range slices.Chunk(words(n-meanwhile/2, meanwhile), meanwhile/8) {
			all.Go(func() {
				for i, w := range some {
					if i%2 == 0 {
						require.NoError(t, ranking.Set(t.Context(), id, w, 1))
						continue
					}
					reply, err := script.Score.Run(t.Context(), rdb, fmt.Sprint("ranking:", id), true, n, "=", "add", 1, w) // Add would wait for us
					require.NoError(t, err)
					require.Equal(t, int64(2), reply.([]any)[0])
				}
			})
		}
		all.Wait()
	}
	full := func(t *testing.T, ctx context.Context) { _, err := ranking.Get(ctx, 1); require.NoError(t, err) }
	away := func(id int) func(t *testing.T, ctx context.Context) {
		return func(t *testing.T, ctx context.Context) { require.NoError(t, ranking.Delete(ctx, id)) }
	}
	return []load{
		{"Ranking.Get", full, full},
		{"Ranking.Get, restored", away(1), full},
		{"Ranking.Get, restored, much written meanwhile", away(2), func(t *testing.T, ctx context.Context) {
			got, err := ranking.Get(ctx, 2)
			require.NoError(t, err)
			require.Equal(t, collection.Scored[string]{Member: words(n-1, 1)[0], Score: n}, got[0], "it was added to")
		}},
		{"Ranking.Set", full, func(t *testing.T, ctx context.Context) { require.NoError(t, ranking.Set(ctx, 1, "new", 5)) }},
		{"Ranking.Around 500", full, func(t *testing.T, ctx context.Context) {
			near, _, err := ranking.Around(ctx, 1, words(n/2, 1)[0], 500)
			require.NoError(t, err)
			require.Len(t, near, 1001)
		}},
		{"Ranking.Remove of 10,000", full, func(t *testing.T, ctx context.Context) {
			require.NoError(t, ranking.Remove(ctx, 1, words(0, 10_000)...))
		}},
		{"Ranking.Delete", full, func(t *testing.T, ctx context.Context) { require.NoError(t, ranking.Delete(ctx, 1)) }},
	}
}

func trendings(t *testing.T, rdb *redis.Client) []load {
	const buckets, keep, each = 1000, 100_000, 20
	trending := cachex.Must(collection.NewTrending(rdb, collection.TrendingSpec[int, string]{
		Key: "trending:{id}", Bucket: time.Hour, Buckets: buckets, Top: longest, Keep: keep,
	}))
	fill := func(t *testing.T, ctx context.Context) {
		now, err := rdb.Time(ctx).Result()
		require.NoError(t, err)
		p := rdb.Pipeline()
		for i := range buckets - 1 { // of now, and those before, but for a few should the hour end
			key, members := fmt.Sprintf("{trending:1}:%d", now.UnixMilli()/time.Hour.Milliseconds()-int64(i)), each
			if i == 1 {
				members = keep
			}
			zs := make([]redis.Z, 0, 1000)
			for j := range members {
				if zs = append(zs, redis.Z{Member: fmt.Sprint("element-", j), Score: float64(1 + j)}); len(zs) == cap(zs) || j == members-1 {
					p.ZAdd(ctx, key, slices.Clone(zs)...)
					zs = zs[:0]
				}
			}
		}
		_, err = p.Exec(ctx)
		require.NoError(t, err)
	}
	return []load{
		{"Trending.Get", fill, func(t *testing.T, ctx context.Context) {
			top, err := trending.Get(ctx, 1)
			require.NoError(t, err)
			require.Len(t, top, longest)
			require.Equal(t, collection.Scored[string]{Member: "element-99999", Score: keep}, top[0])
		}},
		{"Trending.Add", nil, func(t *testing.T, ctx context.Context) {
			_, err := trending.Add(ctx, 1, "element-1", 1)
			require.NoError(t, err)
		}},
		{"Trending.Remove of 10", nil, func(t *testing.T, ctx context.Context) { require.NoError(t, trending.Remove(ctx, 1, words(0, 10)...)) }},
		{"Trending.Delete", nil, func(t *testing.T, ctx context.Context) { require.NoError(t, trending.Delete(ctx, 1)) }},
	}
}

func feeds(t *testing.T, rdb *redis.Client) []load {
	feed := cachex.Must(collection.NewFeed(rdb, collection.FeedSpec[int, string]{
		Key: "feed:{id}", TTL: time.Hour, Len: longest, Score: func(string) float64 { return 1 },
		Up: func(context.Context, int) ([]string, error) { return words(0, longest), nil },
	}))
	full := func(t *testing.T, ctx context.Context) {
		all, err := feed.Get(ctx, 1)
		require.NoError(t, err)
		require.Len(t, all, longest)
	}
	return []load{
		{"Feed.Get", full, full},
		{"Feed.Post to 1,000", full, func(t *testing.T, ctx context.Context) {
			require.NoError(t, feed.Post(ctx, "new", numbers(0, 1000)...))
		}},
		{"Feed.GetPage of 1,000", full, func(t *testing.T, ctx context.Context) {
			var at collection.Cursor
			for range 5 {
				page, next, err := feed.GetPage(ctx, 1, at, 1000)
				require.NoError(t, err)
				require.Len(t, page, 1000)
				at = next
			}
		}},
		{"Feed.Remove", full, func(t *testing.T, ctx context.Context) { require.NoError(t, feed.Remove(ctx, "element-7", 1)) }},
	}
}

func packed(t *testing.T, rdb *redis.Client) []load {
	var all []load
	for _, n := range []int{128, 1024} {
		c := newCache(t, rdb, spec{Key: fmt.Sprint("packed", n, ":{id}"), Packed: n})
		all = append(all, load{fmt.Sprint("GetMany of a Packed hash of ", n), func(t *testing.T, ctx context.Context) {
			require.NoError(t, c.SetMany(ctx, goods("a value of the usual length ", numbers(0, n)...)))
		}, func(t *testing.T, ctx context.Context) {
			values, err := c.GetMany(ctx, numbers(0, n))
			require.NoError(t, err)
			require.Len(t, values, n)
		}})
	}
	return all
}

// entries are those of caches, of as many bytes as any server takes. How long a value is
// is no matter of a Spec.
func entries(t *testing.T, rdb *redis.Client) []load {
	var all []load
	for name, s := range map[string]spec{
		"plain":  {Key: "entry:{id}", StaleWhileRevalidate: time.Hour},
		"packed": {Key: "entry-packed:{id}", Packed: 128, StaleWhileRevalidate: time.Hour},
	} {
		value := strings.Repeat("x", 1<<20-1000)
		if s.Packed > 0 {
			value = value[:10_000] // it is for small ones
		}
		s.Up = func(context.Context, int) (string, error) { return value, nil }
		c := newCache(t, rdb, s)
		away := func(t *testing.T, ctx context.Context) { require.NoError(t, c.Delete(ctx, numbers(0, 10)...)) }
		all = append(all,
			load{"GetMany, " + name, away, func(t *testing.T, ctx context.Context) {
				_, err := c.GetMany(ctx, numbers(0, 10))
				require.NoError(t, err)
			}},
			load{"SetMany, " + name, nil, func(t *testing.T, ctx context.Context) {
				require.NoError(t, c.SetMany(ctx, map[int]string{1: value, 2: value}))
			}},
			load{"Expire, " + name, nil, func(t *testing.T, ctx context.Context) { require.NoError(t, c.Expire(ctx, 1, 2)) }},
			load{"Delete, " + name, nil, away})
	}
	return all
}

func counts(t *testing.T, rdb *redis.Client) []load {
	up := func(context.Context, int) (int64, error) { return 7, nil }
	down := func(context.Context, counter.Flush[int]) error { return nil }
	var all []load
	for name, s := range map[string]counter.Spec[int]{
		"":            {Key: "count:{id}", TTL: time.Hour, Up: up},
		", persisted": {Name: "counts", Key: "count-down:{id}", TTL: time.Hour, Up: up, Down: down, DownValues: true, FlushEvery: time.Hour},
	} {
		c := cachex.Must(counter.New(rdb, s))
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			require.NoError(t, c.Close(ctx))
		})
		all = append(all, load{"Counter" + name, nil, func(t *testing.T, ctx context.Context) {
			var together sync.WaitGroup
			for id := range 500 {
				together.Go(func() { _, err := c.Inc(ctx, id); require.NoError(t, err) })
			}
			together.Wait()
			for i := range 200 { // those of a count are remembered
				_, err := c.AddOnce(ctx, 1, 1, fmt.Sprint("operation ", i))
				require.NoError(t, err)
			}
			_, err := c.GetMany(ctx, numbers(0, 1000))
			require.NoError(t, err)
			require.NoError(t, c.Set(ctx, 1, 5))
			require.NoError(t, c.Flush(ctx))
			require.NoError(t, c.Delete(ctx, numbers(0, 1000)...))
		}})
	}
	return all
}

func gates(t *testing.T, rdb *redis.Client) []load {
	g := cachex.Must(gate.New(rdb, gate.Spec[int]{Key: "gate:{id}", Every: time.Hour}))
	return []load{{"Gate", nil, func(t *testing.T, ctx context.Context) {
		require.NoError(t, g.Reset(ctx, 1))
		require.ErrorIs(t, g.Do(ctx, 1, func(context.Context) error { return errSource }), errSource) // and it is reopened
		ok, _, err := g.Try(ctx, 1)
		require.NoError(t, err)
		require.True(t, ok)
	}}}
}

// behind is write-behind with batches as large as they may be.
func behind(t *testing.T, rdb *redis.Client) []load {
	const n = 2 * mostBatch
	c := newCache(t, rdb, spec{
		Key: "behind:{id}", WriteBehind: time.Hour, DownMany: func(context.Context, map[int]string) error { return nil },
		WriteBehindOptions: writebehind.Options{Buckets: 1, MaxBatch: mostBatch},
	})
	keys := []string{"{park}%pending", "{park}%inflight", "{park}%refused", "{park}%unread", "{park}%parked"}
	on := func(s *script.Script, args ...any) *script.Call {
		return &script.Call{Script: s, Key: keys[0], More: keys[1:], Args: args}
	}
	return []load{
		{"write-behind, a flush", func(t *testing.T, ctx context.Context) {
			require.NoError(t, c.SetMany(ctx, goods("set", numbers(0, n)...)))
		}, func(t *testing.T, ctx context.Context) { require.NoError(t, c.Flush(ctx)) }},
		{"write-behind, a batch that is taken", func(t *testing.T, ctx context.Context) {
			require.NoError(t, rdb.Unlink(ctx, keys...).Err())
			calls := make([]*script.Call, 0, 2*n)
			for id := range n {
				calls = append(calls, &script.Call{Script: script.PendAdd, Key: keys[0], Args: []any{fmt.Sprint("id", id), 1}},
					&script.Call{Script: script.PendPut, Key: "{put}%pending", Args: []any{fmt.Sprint("id", id), "value"}})
			}
			convoy.Run(ctx, rdb, calls)
			require.NoError(t, calls[0].Err)
		}, func(t *testing.T, ctx context.Context) {
			for range n {
				call := on(script.TakeBatch, "token", "me", 60_000, mostBatch, "", "", 100)
				require.NoError(t, call.Run(ctx, rdb))
				if taken := call.Reply.([]any); taken[0] != "F" {
					require.Equal(t, "T", taken[0])
					require.EqualValues(t, mostBatch, taken[6])
					break
				}
			}
		}},
	}
}

// mostBatch is the most ids of a batch.
const mostBatch = 1000
