package batch_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// Roads count the round trips to each node of a cluster.
type roads struct {
	mu   sync.Mutex
	road map[string]*redistest.Roadside // guarded by mu: by address
}

func (r *roads) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	r.mu.Lock()
	if r.road == nil {
		r.road = map[string]*redistest.Roadside{}
	}
	if r.road[addr] == nil {
		r.road[addr] = new(redistest.Roadside)
	}
	road := r.road[addr]
	r.mu.Unlock()
	return road.Dial(ctx, network, addr)
}

func (r *roads) trips(addr string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.road[addr] == nil {
		return 0
	}
	return r.road[addr].Trips()
}

func TestRun_OnAClusterIsOneRoundTripPerNode(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3)
	roads := new(roads)
	rdb := cluster.Client(&redis.ClusterOptions{
		Dialer: roads.dial, PoolSize: 1, MaxRedirects: 3,
		ClusterStateReloadInterval: time.Hour, // which is a round trip
	})
	require.NoError(t, rdb.ForEachMaster(t.Context(), func(ctx context.Context, node *redis.Client) error {
		for _, s := range []*script.Script{script.Acquire, script.Store, script.Release} {
			if err := node.ScriptLoad(ctx, s.Source()).Err(); err != nil {
				return err
			}
		}
		_, err := node.Pipelined(ctx, func(p redis.Pipeliner) error { // which has a connection of its own
			p.Ping(ctx)
			p.Ping(ctx)
			return nil
		})
		return err
	}))
	names := newCache(t, rdb, "names", cachex.Spec[int, string]{UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
		time.Sleep(takes)
		return goods("name", ids...), nil
	}})
	views := newCache(t, rdb, "views", cachex.Spec[int64, int64]{Up: func(_ context.Context, id int64) (int64, error) {
		time.Sleep(takes)
		return id, nil
	}})
	owner := func(key string) string {
		node, err := rdb.MasterForKey(t.Context(), key)
		require.NoError(t, err)
		return node.Options().Addr
	}
	// Those who have loaded wait for the others no longer than that. A machine may stand
	// still meanwhile.
	const longestWait = 50 * time.Millisecond
	// read returns whether no node was asked more often than that. It may be if the Run took
	// so long that somebody may have waited in vain.
	read := func(most int, ids ...int) bool {
		t.Helper()
		var b batch.Batch
		touched, before := map[string]bool{}, map[string]int{}
		want := map[int64]int64{}
		var others []int64
		for _, id := range ids[:min(len(ids), 16)] { // as many as are loaded at a time
			others, want[int64(id)] = append(others, int64(id)), int64(id)
			touched[owner(views.Key(int64(id)))] = true
		}
		for _, id := range ids {
			touched[owner(names.Key(id))] = true
		}
		for _, addr := range cluster.Addrs() {
			before[addr] = roads.trips(addr)
		}
		some, counts := batch.GetMany(&b, names, ids), batch.GetMany(&b, views, others)
		began := time.Now()
		require.NoError(t, b.Run(t.Context()))
		requireValue(t, goods("name", ids...), some)
		requireValue(t, want, counts)
		vain := time.Since(began) >= takes+longestWait
		few := true
		for _, addr := range cluster.Addrs() {
			n := roads.trips(addr) - before[addr]
			if !touched[addr] {
				require.Zero(t, n)
				continue
			}
			require.Positive(t, n)
			if !vain {
				require.LessOrEqual(t, n, most, addr)
			}
			few = few && n <= most
		}
		return few
	}
	from := func(first int) (ids []int) {
		for id := range 30 {
			ids = append(ids, first+id)
		}
		return ids
	}
	first, deadline := 0, time.Now().Add(patience)
	for !read(3, from(first)...) {
		require.True(t, time.Now().Before(deadline), "never three round trips for each node")
		first += 30
	}
	require.True(t, read(1, from(first)...))
	require.True(t, read(1, first)) // of no more than two nodes
}

func TestRun_UnreachableNodeAffectsOnlyItsKeys(t *testing.T) {
	t.Parallel()
	there, away := redistest.Start(t), redistest.Start(t)
	quick := func(o *redis.Options) { o.MaxRetries = -1 }
	up, down := there.Client(quick), away.Client(quick)
	h := &hash{up, "h"}
	require.NoError(t, up.HSet(t.Context(), "h", "f", "v").Err())
	names := newCache(t, up, "names", cachex.Spec[int, string]{})
	loads := newCache(t, down, "loads", cachex.Spec[int, string]{Up: func(_ context.Context, id int) (string, error) { return fmt.Sprint("up", id), nil }})
	fails := newCache(t, down, "fails", cachex.Spec[int, string]{})
	require.NoError(t, names.Set(t.Context(), 1, "one"))
	require.NoError(t, fails.Set(t.Context(), 1, "one"))
	away.Kill()

	var b batch.Batch
	name, field, loaded := batch.Get(&b, names, 1), batch.Get(&b, h, "f"), batch.GetMany(&b, loads, []int{1, 2})
	require.NoError(t, b.Run(t.Context()), "there is a value for all of them")
	requireValue(t, "one", name)
	requireValue(t, "v", field)
	requireValue(t, goods("up", 1, 2), loaded)

	for range 3 { // the breaker opens
		var b batch.Batch
		name, loaded := batch.Get(&b, names, 1), batch.Get(&b, loads, 3)
		failed, unread := batch.Get(&b, fails, 1), batch.Get(&b, &hash{down, "h"}, "f")
		err := b.Run(t.Context())
		require.Error(t, err)
		require.ErrorContains(t, err, "cachex: batch: ")
		requireValue(t, "one", name)
		requireValue(t, "up3", loaded)
		_, err = failed.Get()
		require.ErrorContains(t, err, "cachex: get "+fails.Key(1)+": ")
		_, err = unread.Get()
		require.ErrorContains(t, err, "cachex: batch: ")
	}
}

func TestRun_CutConnectionIsMadeUpFor(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	opts := &redis.Options{Addr: proxy.Addr(), ReadTimeout: patience}
	rdb := redis.NewClient(opts) // which tries again
	t.Cleanup(func() { _ = rdb.Close() })
	f := fiveOf(t, rdb)
	f.read(t, 7)
	proxy.LoseReplies(1)
	f.read(t, 7)
	proxy.Cut()
	f.read(t, 7)
}

// apart is a client of which nobody knows that it has one server: every key is asked
// for by itself.
type apart struct{ *redis.Client }

// Of a pipeline that breaks off, every key has what it was answered.
func TestRun_BrokenPipelineAffectsKeysSeparately(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, single *redis.Client) {
		rdb := apart{single}
		faults := new(redistest.Faults)
		names := newCache(t, rdb, "names", cachex.Spec[int, string]{})
		loads := newCache(t, rdb, "loads", cachex.Spec[int, string]{UpMany: func(_ context.Context, ids []int) (map[int]string, error) { return goods("up", ids...), nil }})
		h := &hash{rdb, redistest.Key(t)}
		require.NoError(t, rdb.HSet(t.Context(), h.key, "f", "v").Err())
		require.NoError(t, names.SetMany(t.Context(), goods("set", 1, 2, 3)))
		require.NoError(t, loads.SetMany(t.Context(), goods("set", 1, 2)))
		rdb.AddHook(faults)
		faults.Add(redistest.Fault{Skip: 2})
		var b batch.Batch
		all, loaded, field := batch.GetMany(&b, names, []int{1, 2, 3}), batch.GetMany(&b, loads, []int{1, 2}), batch.Get(&b, h, "f")
		require.EqualError(t, b.Run(t.Context()), "cachex: batch: EOF")
		values, err := all.Get()
		require.EqualError(t, err, "cachex: get "+names.Key(3)+": EOF")
		require.Equal(t, goods("set", 1, 2), values)
		requireValue(t, goods("up", 1, 2), loaded)
		_, err = field.Get()
		require.EqualError(t, err, "EOF")
	})
}

// redirected is an error of a node, as Redis returns it.
type redirected string

func (e redirected) Error() string { return string(e) }
func (redirected) RedisError()     {}

func TestRun_ErrorReplyIsTheErrorOfItsKey(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"TRYAGAIN Multiple keys request during rehashing of slot", "MOVED 3999 127.0.0.1:1", "ASK 3999 127.0.0.1:1"} {
		redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
			faults := new(redistest.Faults)
			names := newCache(t, rdb, "names", cachex.Spec[int, string]{})
			loads := newCache(t, rdb, "loads", cachex.Spec[int, string]{Up: func(_ context.Context, id int) (string, error) { return fmt.Sprint("up", id), nil }})
			require.NoError(t, names.SetMany(t.Context(), goods("set", 1, 2)))
			rdb.AddHook(faults)
			faults.Add(redistest.Fault{Match: redistest.Named("mget"), Times: 1, Err: redirected(text)})
			faults.Add(redistest.Fault{Match: func(cmd redis.Cmder) bool {
				return cmd.Name() == "get" && (cmd.Args()[1] == names.Key(2) || cmd.Args()[1] == loads.Key(2))
			}, Times: 1, Err: redirected(text)})
			var b batch.Batch
			one, two := batch.Get(&b, names, 1), batch.Get(&b, names, 2)
			require.NoError(t, b.Run(t.Context()), "Redis did answer")
			requireValue(t, "set1", one)
			_, err := two.Get()
			require.EqualError(t, err, "cachex: get "+names.Key(2)+": "+text)
		})
	}
}

func TestRun_GarbageIsAMissOfItsKey(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		names := newCache(t, rdb, "names", cachex.Spec[int, string]{UpMany: func(_ context.Context, ids []int) (map[int]string, error) { return goods("up", ids...), nil }})
		require.NoError(t, names.Set(t.Context(), 1, "set1"))
		require.NoError(t, rdb.HSet(t.Context(), names.Key(2), "f", "v").Err())
		require.NoError(t, rdb.Set(t.Context(), names.Key(3), "garbage", 0).Err())
		var b batch.Batch
		all := batch.GetMany(&b, names, []int{1, 2, 3})
		require.NoError(t, b.Run(t.Context()))
		requireValue(t, map[int]string{1: "set1", 2: "up2", 3: "up3"}, all)
		require.EqualValues(t, 1, names.Stats().DecodeFailures, "MGET does not tell a hash from nothing")
	})
}

func TestRun_ScriptsAreSentAgainAfterAScriptFlush(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client(nil)
	f := fiveOf(t, rdb)
	f.read(t, 7)
	require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
	f.read(t, 100)
	require.Zero(t, f.names.Stats().RedisFailures)
	f.read(t, 100)
	require.EqualValues(t, 4, f.names.Stats().Loads, "all was stored")
}

func TestRun_WorksThroughAnAutoPipelineAndARing(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for _, async := range []bool{false, true} {
			batching := again(t, rdb)
			auto, err := batching.AutoPipeline()
			if async {
				auto, err = batching.AsyncAutoPipeline()
			}
			require.NoError(t, err)
			f := fiveOf(t, redis.UniversalClient(auto))
			f.read(t, 7)
			f.read(t, 7)
			require.EqualValues(t, 2, f.names.Stats().Loads)
			require.NoError(t, f.close(t))
			require.NoError(t, auto.Close())
		}
	})
	ring := redistest.Ring(t, nil, redistest.Start(t), redistest.Start(t))
	f := fiveOf(t, ring)
	f.read(t, 7)
	f.read(t, 7)
	require.EqualValues(t, 2, f.names.Stats().Loads)
	require.NoError(t, f.close(t))
}

// close closes the caches before their client is closed.
func (f *five) close(t *testing.T) error {
	return errors.Join(f.names.Close(t.Context()), f.profiles.Close(t.Context()), f.counts.Close(t.Context()), f.flags.Close(t.Context()), f.lists.Close(t.Context()))
}

func TestRun_TwoProcessesLoadEachKeyOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		const keys = 30
		var loads atomic.Int64
		prefix := redistest.Key(t)
		begin := make(chan bool)
		var all sync.WaitGroup
		for range 2 {
			client := again(t, rdb)
			spec := cachex.Spec[int, string]{Key: prefix + ":names:{id}", TTL: time.Minute, LeaseTTL: longLease, UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
				loads.Add(int64(len(ids)))
				return goods("up", ids...), nil
			}}
			one := spec
			one.Key, one.UpMany = prefix+":views:{id}", nil
			one.Up = func(_ context.Context, id int) (string, error) {
				loads.Add(1)
				return fmt.Sprint("up", id), nil
			}
			names, views := cachex.Must(cachex.New(client, spec)), cachex.Must(cachex.New(client, one))
			for range 4 {
				all.Go(func() {
					<-begin
					var b batch.Batch
					var ids []int
					for id := range keys {
						ids = append(ids, id)
					}
					n, v := batch.GetMany(&b, names, ids), batch.GetMany(&b, views, ids)
					if err := b.Run(t.Context()); err != nil {
						t.Error(err)
						return
					}
					for _, some := range []*batch.Value[map[int]string]{n, v} {
						values, err := some.Get()
						if err != nil || len(values) != keys || values[7] != "up7" {
							t.Errorf("%v: %v", err, values)
						}
					}
				})
			}
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				require.NoError(t, errors.Join(names.Close(ctx), views.Close(ctx)))
			})
		}
		close(begin)
		all.Wait()
		require.EqualValues(t, 2*keys, loads.Load())
	})
}

func TestRun_SendsFiveHundredCommandsAtATime(t *testing.T) {
	t.Parallel()
	rdb := redistest.Shared(t).Client(nil)
	loadScripts(t, rdb)
	names := newCache(t, rdb, "names", cachex.Spec[int, string]{UpMany: func(_ context.Context, ids []int) (map[int]string, error) { return goods("up", ids...), nil }})
	views := newCache(t, rdb, "views", cachex.Spec[int, string]{UpMany: func(_ context.Context, ids []int) (map[int]string, error) { return goods("up", ids...), nil }})
	var ids []int
	for id := range 1000 {
		ids = append(ids, id)
	}
	trips := new(redistest.Counter)
	rdb.AddHook(trips)
	for _, warm := range []bool{false, true} {
		trips.Reset()
		var b batch.Batch
		n, v := batch.GetMany(&b, names, ids), batch.GetMany(&b, views, ids)
		require.NoError(t, b.Run(t.Context()))
		requireValue(t, goods("up", ids...), n)
		requireValue(t, goods("up", ids...), v)
		if warm {
			require.Equal(t, 4, trips.RoundTrips())
		}
		require.Equal(t, 4, trips.Count("mget"))
		require.Zero(t, trips.Count("get"))
	}
	require.EqualValues(t, 1, names.Stats().Loads)
}
