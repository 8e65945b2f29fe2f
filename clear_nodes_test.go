package cachex

import (
	"context"
	"net"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/twemproxy"
)

func TestWithProgress_ReportsTheProgressOfClear(t *testing.T) {
	t.Parallel()
	for name, client := range map[string]func(t *testing.T) *redis.Client{
		"embedded": func(t *testing.T) *redis.Client { return redistest.StartEmbedded(t).Client(nil) },
		"redis":    func(t *testing.T) *redis.Client { return redistest.Start(t).Client(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := client(t)
			fill(t, rdb, numbered("users:", 2500)...)
			fill(t, rdb, numbered("foreign:", 2500)...)
			c := newCache(t, rdb, Spec[int, string]{Key: "users:{id}"})
			var steps []Progress
			n, err := c.Clear(WithProgress(t.Context(), func(p Progress) { steps = append(steps, p) }))
			require.NoError(t, err)
			require.EqualValues(t, 2500, n)
			require.NotEmpty(t, steps)
			last := Progress{Keys: 5000}
			for _, p := range steps {
				require.EqualValues(t, 5000, p.Keys)
				require.GreaterOrEqual(t, p.Scanned, last.Scanned)
				require.LessOrEqual(t, p.Scanned, p.Keys)
				require.GreaterOrEqual(t, p.Removed, last.Removed)
				last = p
			}
			require.Equal(t, Progress{Keys: 5000, Scanned: 5000, Removed: 2500}, last)

			// Nobody asks.
			fill(t, rdb, "users:1")
			n, err = c.Clear(WithProgress(t.Context(), nil))
			require.NoError(t, err)
			require.EqualValues(t, 1, n)
		})
	}
}

func TestWithProgress_KeysAreZeroIfDBSizeFails(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	fill(t, rdb, "users:1", "users:2")
	noPerm := serverError("NOPERM this user has no permissions to run the 'dbsize' command")
	c := newCache(t, faulty(t, rdb, redistest.Fault{Match: redistest.Named("dbsize"), Err: noPerm}), Spec[int, string]{Key: "users:{id}"})
	var last Progress
	n, err := c.Clear(WithProgress(t.Context(), func(p Progress) { last = p }))
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	require.Equal(t, Progress{Scanned: scanCount, Removed: 2}, last)
}

func TestWithProgress_PanicEndsClear(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		prefix := redistest.Key(t)
		fill(t, rdb, numbered(prefix+":", 10)...)
		c := newCache(t, rdb, Spec[int, string]{Name: "users", Key: prefix + ":{id}"})
		n, err := c.Clear(WithProgress(t.Context(), func(p Progress) {
			if p.Removed > 0 {
				panic("secret")
			}
		}))
		requireError(t, err, Error{Op: "clear", Cache: "users"}, "cachex: clear users: the function of WithProgress panicked with a string")
		require.Positive(t, n)
		require.Zero(t, c.Stats().RedisFailures)
	})
}

// scans counts the SCANs of a client. It is used by one goroutine.
type scans struct {
	n, most int // how many there were, and the most keys that one returned
	counts  map[any]bool
}

func (s *scans) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s *scans) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if scan, ok := cmd.(*redis.ScanCmd); ok {
			keys, _ := scan.Val()
			args := scan.Args()
			s.n, s.most = s.n+1, max(s.most, len(keys))
			s.counts[args[len(args)-1]] = true
		}
		return err
	}
}

func (s *scans) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// Clear holds Redis up for no longer than Redis takes to look at a thousand keys, among
// a million. The test counts what Clear asks for, and logs how long Redis took.
func TestClear_OfManyKeysDoesNotBlockOthers(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("fills a server with a million keys")
	}
	const own, foreign, chunk, step = 500_000, 500_000, 10_000, 1000
	server := redistest.Start(t)
	ctx, rdb := t.Context(), server.Client(nil)
	const filler = `
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
	redis.call('SET', 'users:' .. i, 'own')
	redis.call('SET', (i % 2 == 0 and 'users:' or 'jobs:') .. i .. ':posts', 'foreign')
end
return 1`
	for from := 0; from < own; from += chunk {
		require.NoError(t, rdb.Eval(ctx, filler, nil, from, from+chunk-1).Err())
	}
	require.EqualValues(t, own+foreign, rdb.DBSize(ctx).Val())
	require.NoError(t, rdb.ConfigResetStat(ctx).Err())

	seen := &scans{counts: map[any]bool{}}
	clearing := again(t, rdb)
	clearing.AddHook(seen)
	c := newCache(t, clearing, Spec[int, string]{Key: "users:{id}"})
	began := time.Now()
	n, err := c.Clear(ctx)
	require.NoError(t, err)
	t.Logf("%d of %d keys cleared in %v, in %d steps; %s", n, own+foreign, time.Since(began), seen.n,
		regexp.MustCompile(`cmdstat_(scan|unlink):[^\r]*`).FindAllString(rdb.Info(ctx, "commandstats").Val(), -1))
	require.EqualValues(t, own, n)
	require.EqualValues(t, foreign, rdb.DBSize(ctx).Val())
	require.Equal(t, map[any]bool{int64(step): true}, seen.counts)
	require.EqualValues(t, server.CommandCount("scan"), seen.n)
	require.Greater(t, seen.n, (own+foreign)/(2*step), "a step looks at far more keys than it is asked for")
	require.Less(t, seen.most, 2*step)
	require.EqualValues(t, own, server.CommandCount("unlink"), "an UNLINK is of one key")
	require.Zero(t, server.CommandCount("keys", "flushdb", "flushall", "del", "eval", "evalsha"))
	require.EqualValues(t, foreign, len(matching(t, rdb, "*:posts")), "what was foreign is still there")
}

// matching returns the keys of one server that match a glob.
func matching(t *testing.T, rdb *redis.Client, glob string) map[string]bool {
	t.Helper()
	keys := map[string]bool{}
	for it := rdb.Scan(t.Context(), 0, glob, 10_000).Iterator(); it.Next(t.Context()); {
		keys[it.Val()] = true
	}
	return keys
}

func TestClear_ReachesEveryMasterOfACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3)
	ctx, rdb := t.Context(), cluster.Client(nil)
	keys, foreign := numbered("users:", 6000), numbered("others:", 3000)
	fill(t, rdb, keys...)
	fill(t, rdb, foreign...)
	s := newSource(t)
	c := newCache(t, rdb, Spec[int, string]{Key: "users:{id}", Up: s.up, LeaseTTL: longLease})
	elsewhere := newCache(t, cluster.Client(nil), Spec[int, string]{Key: "users:{id}"})
	const id = 1_000_000
	first := asking(ctx, c, id)
	load := s.next(t)

	var inside atomic.Int32
	var last Progress // not guarded: the race detector sees to it that calls do not overlap
	n, err := elsewhere.Clear(WithProgress(ctx, func(p Progress) {
		if inside.Add(1) != 1 {
			t.Error("two masters tell of their progress at once")
		}
		last = p
		inside.Add(-1)
	}))
	require.NoError(t, err)
	require.EqualValues(t, 6001, n, "and the lease")
	require.Equal(t, Progress{Keys: 9001, Scanned: 9001, Removed: 6001}, last)
	require.Zero(t, left(t, rdb, keys))
	require.Equal(t, 3000, left(t, rdb, foreign))
	load.returns("old", nil)
	gets(t, "old", first)
	require.Equal(t, int64(1), c.Stats().Fenced)

	// Keys with one hash tag are all on one node.
	carts := newCache(t, rdb, Spec[int, string]{Key: "cart:{{id}}:items"})
	for id := range 30 {
		require.NoError(t, carts.Set(ctx, id, "item"))
	}
	n, err = carts.Clear(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 30, n)

	// A master that fails keeps none of the others.
	fill(t, rdb, keys...)
	hurt := redis.NewClient(&redis.Options{Addr: cluster.Addrs()[0], ReadTimeout: patience})
	t.Cleanup(func() { _ = hurt.Close() })
	require.NoError(t, hurt.Do(ctx, "acl", "setuser", "default", "-unlink").Err())
	before := hurt.DBSize(ctx).Val()
	n, err = c.Clear(ctx)
	require.ErrorContains(t, err, "NOPERM")
	require.Positive(t, n)
	require.Equal(t, before, hurt.DBSize(ctx).Val())
	require.Equal(t, 6000-int(n), left(t, rdb, keys))
	require.NoError(t, hurt.Do(ctx, "acl", "setuser", "default", "+unlink").Err())
	rest, err := c.Clear(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 6000, n+rest)
}

func TestClear_FollowsAKeyThatMovesAfterItsScan(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 2)
	ctx, plain, moved := t.Context(), cluster.Client(nil), cluster.Client(nil)
	spec := Spec[int, string]{Key: "cart:{{id}}"}
	require.NoError(t, newCache(t, plain, spec).Set(ctx, 1, "item"))
	c := newCache(t, moved, spec)
	slot := plain.ClusterKeySlot(ctx, c.Key(1)).Val()
	var from, to *redis.Client
	for _, addr := range cluster.Addrs() {
		node := redis.NewClient(&redis.Options{Addr: addr, ReadTimeout: patience})
		t.Cleanup(func() { _ = node.Close() })
		if node.DBSize(ctx).Val() == 1 {
			from = node
		} else {
			to = node
		}
	}
	move := sync.OnceFunc(func() {
		source, target := from.Do(ctx, "cluster", "myid").Val(), to.Do(ctx, "cluster", "myid").Val()
		host, port, err := net.SplitHostPort(to.Options().Addr)
		require.NoError(t, err)
		require.NoError(t, to.Do(ctx, "cluster", "setslot", slot, "importing", source).Err())
		require.NoError(t, from.Do(ctx, "cluster", "setslot", slot, "migrating", target).Err())
		require.NoError(t, from.Migrate(ctx, host, port, c.Key(1), 0, patience).Err())
		require.NoError(t, to.Do(ctx, "cluster", "setslot", slot, "node", target).Err())
		require.NoError(t, from.Do(ctx, "cluster", "setslot", slot, "node", target).Err())
	})
	moved.OnNewNode(func(node *redis.Client) {
		node.AddHook(&redistest.Gate{After: func(_ context.Context, cmd redis.Cmder) {
			if scan, ok := cmd.(*redis.ScanCmd); ok {
				if keys, _ := scan.Val(); len(keys) > 0 {
					move()
				}
			}
		}})
	})
	n, err := c.Clear(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.Zero(t, to.DBSize(ctx).Val())
}

// SCAN is of one node: a key that comes to one after its walk, from one before its walk, is
// met on neither, and no node tells.
func TestClear_KeyThatMovesBehindTheWalkNeedsASecondClear(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 2)
	ctx, rdb := t.Context(), cluster.Client(nil)
	spec := Spec[int, string]{Key: "cart:{{id}}"}
	plain, c := newCache(t, cluster.Client(nil), spec), newCache(t, rdb, spec)
	require.NoError(t, plain.Set(ctx, 1, "item"))
	from := cluster.Owner(c.Key(1))
	to := cluster.OtherThan(from)
	walked, moved := make(chan struct{}), make(chan struct{})
	rdb.OnNewNode(func(node *redis.Client) {
		gate := &redistest.Gate{Before: func(_ context.Context, cmd redis.Cmder) {
			if cmd.Name() == "scan" {
				<-moved
			}
		}}
		if node.Options().Addr == to.Addr() {
			ends := sync.OnceFunc(func() { close(walked) })
			gate = &redistest.Gate{After: func(_ context.Context, cmd redis.Cmder) {
				if scan, ok := cmd.(*redis.ScanCmd); ok {
					if _, cursor := scan.Val(); cursor == 0 {
						ends()
					}
				}
			}}
		}
		node.AddHook(gate)
	})
	type result struct {
		n   int64
		err error
	}
	cleared := make(chan result, 1)
	go func() {
		n, err := c.Clear(ctx)
		cleared <- result{n, err}
	}()
	select {
	case <-walked:
	case <-time.After(patience):
		require.Fail(t, "the node is not walked")
	}
	cluster.Move(cluster.Slot(c.Key(1)), to, nil)
	close(moved)
	require.Equal(t, result{}, <-cleared)
	v, err := plain.Get(ctx, 1)
	require.NoError(t, err)
	require.Equal(t, "item", v)

	n, err := plain.Clear(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}

func TestClear_ReachesEveryShardOfARing(t *testing.T) {
	t.Parallel()
	for name, addrs := range map[string]func(t *testing.T) (a, b *redis.Client){
		"embedded": func(t *testing.T) (a, b *redis.Client) {
			return redistest.StartEmbedded(t).Client(nil), redistest.StartEmbedded(t).Client(nil)
		},
		"redis": func(t *testing.T) (a, b *redis.Client) {
			return redistest.Start(t).Client(nil), redistest.Start(t).Client(nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := addrs(t)
			ring := redis.NewRing(&redis.RingOptions{
				Addrs: map[string]string{"a": a.Options().Addr, "b": b.Options().Addr}, HeartbeatFrequency: Forever, ReadTimeout: patience,
			})
			t.Cleanup(func() { _ = ring.Close() })
			fill(t, ring, numbered("users:", 2000)...)
			require.Positive(t, a.DBSize(t.Context()).Val())
			require.Positive(t, b.DBSize(t.Context()).Val())
			// One of these is not where the ring would look for it.
			fill(t, a, "users:5000", "foreign:1")
			fill(t, b, "users:5000")
			c := newCache(t, ring, Spec[int, string]{Key: "users:{id}"})
			n, err := c.Clear(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 2002, n)
			require.EqualValues(t, 1, a.DBSize(t.Context()).Val())
			require.Zero(t, b.DBSize(t.Context()).Val())
		})
	}
}

func TestClear_WorksThroughAnAutoPipelineOfOneServer(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for _, async := range []bool{false, true} {
			batching := again(t, rdb)
			auto, err := batching.AutoPipeline()
			if async {
				auto, err = batching.AsyncAutoPipeline()
			}
			require.NoError(t, err)
			prefix := redistest.Key(t) + ":"
			fill(t, rdb, numbered(prefix, 1500)...)
			c := newCache(t, redis.UniversalClient(auto), Spec[int, string]{Key: prefix + "{id}"})
			n, err := c.Clear(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 1500, n)
			require.Zero(t, left(t, rdb, numbered(prefix, 1500)))
			require.NoError(t, auto.Close())
		}
	})
}

// A client that knows of the proxy sends it no SCAN, and on any other the proxy hangs up.
func TestClear_ErrorSaysThatAProxyRefusesScan(t *testing.T) {
	t.Parallel()
	known := redistest.StartTwemproxy(t, 0, redistest.Start(t).Addr())
	unknown := redis.NewClient(&redis.Options{Addr: known.Options().Addr, ReadTimeout: patience, Dialer: twemproxy.Dialer(nil)})
	t.Cleanup(func() { _ = unknown.Close() })
	for _, rdb := range []*redis.Client{known, unknown} {
		c := newCache(t, rdb, Spec[int, string]{Key: "users:{id}"})
		require.NoError(t, c.Set(t.Context(), 1, "ann"))

		n, err := c.Clear(WithProgress(t.Context(), func(Progress) {}))
		require.Zero(t, n)
		require.ErrorContains(t, err, "cachex: clear users: Clear needs SCAN, which some proxies and ACLs refuse: ")
		v, err := c.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "ann", v)
	}
}
