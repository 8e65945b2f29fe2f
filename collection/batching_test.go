package collection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/gather"
	"github.com/cachex-go/cachex/internal/redistest"
)

// ferry is the time that a read takes to reach Redis in a pier.
const ferry = 10 * time.Millisecond

// pier has a cache, and a collection of each type that a plain command reads.
// In each, the key 1 has a value.
type pier struct {
	shelf
	rdb  *redis.Client
	sent *redistest.Counter // commands sent since the setup
}

// atThePier runs f in a bubble.
func atThePier(t *testing.T, apart bool, f func(t *testing.T, p *pier)) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		names, err := cachex.New(rdb, cachex.Spec[int, string]{Key: "names:{id}", TTL: someTTL})
		require.NoError(t, err)
		closing(t, names)
		p := &pier{rdb: rdb, sent: new(redistest.Counter), shelf: shelf{
			names:  names,
			latest: recent(t, rdb, RecentSpec[int, string]{NoCombining: apart}),
			top:    ranking(t, rdb, RankingSpec[int, string]{NoCombining: apart}),
			users:  set(t, rdb, SetSpec[int, string]{NoCombining: apart}),
			posts:  feed(t, rdb, FeedSpec[int, string]{NoCombining: apart}),
		}}
		ctx := t.Context()
		require.NoError(t, p.names.Set(ctx, 1, "Ada"))
		require.NoError(t, p.latest.Push(ctx, 1, "10"))
		require.NoError(t, p.top.Set(ctx, 1, "10", 5))
		_, err = p.users.Add(ctx, 1, "10")
		require.NoError(t, err)
		require.NoError(t, p.posts.Post(ctx, "10", 1))
		rdb.AddHook(p.sent)
		rdb.AddHook(crossing{})
		f(t, p)
	})
}

// crossing is a hook that delays reads.
type crossing struct{}

func (crossing) DialHook(next redis.DialHook) redis.DialHook { return next }

func (crossing) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		cross(cmd)
		return next(ctx, cmd)
	}
}

func (crossing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		cross(cmds[0])
		return next(ctx, cmds)
	}
}

func cross(cmd redis.Cmder) {
	if slices.Contains([]string{"get", "mget", "lrange", "zrevrange", "sscan"}, cmd.Name()) {
		time.Sleep(ferry)
	}
}

// collections reads each collection on its own goroutine, one started after the
// other.
func (p *pier) collections(t *testing.T, wg *sync.WaitGroup) {
	has := func(want any, get func() (any, error)) {
		wg.Go(func() {
			got, err := get()
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
		synctest.Wait()
	}
	has([]string{"10"}, func() (any, error) { return p.latest.Get(t.Context(), 1) })
	has(board{{"10", 5}}, func() (any, error) { return p.top.Get(t.Context(), 1) })
	has([]string{"10"}, func() (any, error) { return p.users.Get(t.Context(), 1) })
	has([]string{"10"}, func() (any, error) { return p.posts.Get(t.Context(), 1) })
}

// underWay puts two reads in flight, so that further reads are batched.
func (p *pier) underWay(t *testing.T, wg *sync.WaitGroup) {
	for range 2 {
		wg.Go(func() { _, _ = p.latest.Get(t.Context(), 2) })
	}
	synctest.Wait()
}

func TestBatching_SharesPipelinesWithCaches(t *testing.T) {
	t.Parallel()
	atThePier(t, false, func(t *testing.T, p *pier) {
		var wg sync.WaitGroup
		for range 2 {
			began := time.Now()
			p.sent.Reset()
			p.underWay(t, &wg)
			for i := range 2 {
				wg.Go(func() {
					name, found, err := p.names.Lookup(t.Context(), 1+i)
					require.NoError(t, err)
					require.Equal(t, i == 0, found)
					require.Equal(t, []string{"Ada", ""}[i], name)
				})
				synctest.Wait()
			}
			p.collections(t, &wg)
			wg.Wait()
			require.Equal(t, 2*ferry, time.Since(began))
			require.Equal(t, 3, p.sent.RoundTrips())
			require.Equal(t, 1, p.sent.Count("mget"))
			require.Equal(t, []int{2 + 1, 2, 1}, []int{p.sent.Count("lrange"), p.sent.Count("zrevrange"), p.sent.Count("sscan")})
			require.Equal(t, 7, p.sent.Count())
		}
	})
}

func TestNoCombining_SendsEachReadOnItsOwn(t *testing.T) {
	t.Parallel()
	atThePier(t, true, func(t *testing.T, p *pier) {
		began := time.Now()
		var wg sync.WaitGroup
		for range 3 {
			p.collections(t, &wg)
		}
		wg.Wait()
		require.Equal(t, 12, p.sent.RoundTrips())
		require.Equal(t, ferry, time.Since(began), "and at once")
	})
}

func TestBatching_ReaderLeavesOnItsOwnCtx(t *testing.T) {
	t.Parallel()
	atThePier(t, false, func(t *testing.T, p *pier) {
		var wg sync.WaitGroup
		p.underWay(t, &wg)
		began, enough := time.Now(), errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		early := asking(ctx, &p.latest.store, 1)
		synctest.Wait()
		then, cancelThen := context.WithCancelCause(t.Context())
		late := asking(then, &p.top.store, 1)
		synctest.Wait()
		p.collections(t, &wg)

		cancel(enough)
		a := receive(t, early)
		e, ok := errors.AsType[*cachex.Error](a.err)
		require.True(t, ok)
		require.Equal(t, cachex.Error{Op: "get", Cache: p.latest.name, Key: name(t, &p.latest.store, 1), Err: enough}, *e)
		require.Zero(t, time.Since(began), "at once")
		time.Sleep(ferry + ferry/2)
		cancelThen(enough)
		require.ErrorIs(t, receive(t, late).err, enough)
		require.Equal(t, ferry+ferry/2, time.Since(began), "at once, though it was sent")
		wg.Wait()
		require.Equal(t, 2*ferry, time.Since(began))
		require.Equal(t, 3, p.sent.RoundTrips())
		require.Equal(t, cachex.BreakerClosed, p.latest.Stats().Breaker)
	})
}

func TestBatching_WrongTypeFailsOnlyItsOwnReader(t *testing.T) {
	t.Parallel()
	atThePier(t, false, func(t *testing.T, p *pier) {
		for _, k := range []string{name(t, &p.latest.store, 3), name(t, &p.top.store, 3)} {
			require.NoError(t, p.rdb.HSet(t.Context(), k, "f", "v").Err())
		}
		restored := recent(t, p.rdb, RecentSpec[int, string]{Key: "restored:{id}", Up: posted("20")})
		require.NoError(t, p.rdb.Set(t.Context(), name(t, &restored.store, 1), "foreign", 0).Err())
		p.sent.Reset()
		began := time.Now()
		var wg sync.WaitGroup
		p.underWay(t, &wg)
		latest, top, again := asking(t.Context(), &p.latest.store, 3), asking(t.Context(), &p.top.store, 3), asking(t.Context(), &restored.store, 1)
		synctest.Wait()
		p.collections(t, &wg)
		wg.Wait()
		require.Equal(t, 2*ferry, time.Since(began), "they left together")
		require.ErrorIs(t, receive(t, latest).err, ErrForeign)
		require.ErrorIs(t, receive(t, top).err, ErrForeign)
		require.Equal(t, answer[[]string]{v: []string{"20"}}, receive(t, again))
		require.Equal(t, 2+3+4, p.sent.Count("lrange", "zrevrange", "sscan"), "nothing was read again")
	})
}

// A caller that leaves early is no evidence about Redis. Several callers in a
// row that wait in vain for a batch are.
func TestBatching_WaitingInVainOpensTheBreaker(t *testing.T) {
	t.Parallel()
	atThePier(t, false, func(t *testing.T, p *pier) {
		silent := make(chan bool)
		p.rdb.AddHook(&redistest.Gate{Before: func(context.Context, redis.Cmder) { <-silent }})
		var wg sync.WaitGroup
		p.underWay(t, &wg)
		leave := func(after time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			_, err := p.top.Get(ctx, 1)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		for range 5 {
			leave(50 * time.Millisecond)
		}
		require.Equal(t, cachex.BreakerClosed, p.top.Stats().Breaker)
		for range 3 {
			require.Equal(t, cachex.BreakerClosed, p.top.Stats().Breaker)
			leave(150 * time.Millisecond)
		}
		require.Equal(t, cachex.BreakerOpen, p.top.Stats().Breaker)
		close(silent)
		wg.Wait()
		require.Equal(t, cachex.BreakerClosed, p.top.Stats().Breaker, "somebody was answered")
	})
}

func TestClose_WaitsForAbandonedReads(t *testing.T) {
	t.Parallel()
	atThePier(t, false, func(t *testing.T, p *pier) {
		var wg sync.WaitGroup
		p.underWay(t, &wg)
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		gone := asking(ctx, &p.latest.store, 1)
		time.Sleep(ferry + ferry/2)
		cancel()
		require.ErrorIs(t, receive(t, gone).err, context.Canceled)
		for _, other := range []interface{ Close(context.Context) error }{p.names, p.top, p.users, p.posts} {
			require.NoError(t, other.Close(t.Context()))
		}
		require.Equal(t, ferry+ferry/2, time.Since(began), "somebody else is on the client")
		require.ErrorIs(t, p.latest.Close(ctx), context.Canceled)
		require.NoError(t, p.latest.Close(t.Context()))
		require.Equal(t, 2*ferry, time.Since(began))
		require.NoError(t, p.latest.Close(t.Context()), "again")
		wg.Wait()
		p.collections(t, &wg) // collections in Redis can still be read
		wg.Wait()
	})
}

func TestClose_ReleasesTheClientOnce(t *testing.T) {
	t.Parallel()
	atThePier(t, false, func(t *testing.T, p *pier) {
		same := func() bool {
			c := gather.For(p.rdb)
			defer c.Release()
			return c == p.latest.gather
		}
		for range 5 {
			require.NoError(t, p.latest.Close(t.Context()))
		}
		require.True(t, same(), "others read on it")
		for _, other := range []interface{ Close(context.Context) error }{p.names, p.top, p.users, p.posts} {
			require.True(t, same())
			require.NoError(t, other.Close(t.Context()))
		}
		require.False(t, same())
	})
}

func TestBatching_ReadsSeeEarlierWrites(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		sent := new(redistest.Counter)
		rdb.AddHook(sent)
		stormy(t, rdb, sent)
	})
}

// stormy reads three collections from many goroutines while others write to
// them. Each writer must see its own writes, and the reads must be batched.
func stormy(t *testing.T, rdb redis.UniversalClient, sent *redistest.Counter) {
	t.Helper()
	const writers, readers, writes, keys = 4, 12, 60, 6
	ctx := t.Context()
	latest := recent(t, rdb, RecentSpec[int, string]{Len: 50})
	top := ranking(t, rdb, RankingSpec[int, string]{Top: writers, Keep: 10})
	users := set(t, rdb, SetSpec[int, string]{})
	sent.Reset()
	var wg, reading sync.WaitGroup
	over := make(chan bool)
	for w := range writers {
		wg.Go(func() {
			me := fmt.Sprint("w", w)
			for i := range writes {
				key, elem := i%keys, fmt.Sprint(me, "-", i)
				require.NoError(t, latest.Push(ctx, key, elem))
				elems, err := latest.Get(ctx, key)
				require.NoError(t, err)
				require.Contains(t, elems, elem)
				require.NoError(t, top.Set(ctx, key, me, float64(i)))
				all, err := top.Get(ctx, key)
				require.NoError(t, err)
				require.Contains(t, all, Scored[string]{me, float64(i)})
				_, err = users.Add(ctx, key, elem)
				require.NoError(t, err)
				members, err := users.Get(ctx, key)
				require.NoError(t, err)
				require.Contains(t, members, elem)
				require.NoError(t, users.Remove(ctx, key, elem))
				members, err = users.Get(ctx, key)
				require.NoError(t, err)
				require.NotContains(t, members, elem)
			}
		})
	}
	for r := range readers {
		reading.Go(func() {
			for i := r; ; i++ {
				select {
				case <-over:
					return
				default:
				}
				_, err := latest.Get(ctx, i%keys)
				require.NoError(t, err)
				_, err = top.Get(ctx, i%keys)
				require.NoError(t, err)
				_, err = users.Get(ctx, i%keys)
				require.NoError(t, err)
			}
		})
	}
	wg.Wait()
	close(over)
	reading.Wait()
	require.Less(t, sent.RoundTrips(), sent.Count()*9/10)
}

func TestBatching_GroupsReadsByClusterNode(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartCluster(t, 3).Client(nil)
	sent, lots := new(redistest.Counter), &byNode{rdb: rdb}
	rdb.AddHook(sent)
	rdb.AddHook(lots)
	stormy(t, rdb, sent)
	lots.mu.Lock()
	defer lots.mu.Unlock()
	require.NoError(t, errors.Join(lots.mixed...))
	require.NotZero(t, lots.shared)
}

// byNode is a hook that records to which nodes pipelines go.
type byNode struct {
	rdb *redis.ClusterClient

	mu     sync.Mutex
	shared int     // guarded by mu: pipelines of several keys
	mixed  []error // guarded by mu: pipelines that went to several nodes
}

func (*byNode) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*byNode) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (b *byNode) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		var keys []string
		var nodes []*redis.Client
		for _, cmd := range cmds {
			k := fmt.Sprint(cmd.Args()[1])
			node, err := b.rdb.MasterForKey(ctx, k)
			if err != nil {
				return err
			}
			keys, nodes = append(keys, k), append(nodes, node)
		}
		slices.Sort(keys)
		b.mu.Lock()
		if len(slices.Compact(keys)) > 1 {
			b.shared++
		}
		if slices.ContainsFunc(nodes, func(n *redis.Client) bool { return n != nodes[0] }) {
			b.mixed = append(b.mixed, fmt.Errorf("%v went together", cmds))
		}
		b.mu.Unlock()
		return next(ctx, cmds)
	}
}
