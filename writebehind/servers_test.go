package writebehind

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// A full Redis that refuses writes can be flushed, and is then no longer full.
func TestAFullRedisCanBeFlushed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--maxmemory-policy", "noeviction")
	rdb := server.Client(nil)
	d := newDatabase()
	o := options(t, d, Sum)
	o.MaxBatch = 100
	e := engine(t, rdb, o)
	ctx := bounded(t)
	for i := range 500 {
		require.NoError(t, e.Add(ctx, fmt.Sprint("id", i), 1))
	}
	d.poison["id7"] = true
	require.NoError(t, rdb.ConfigSet(ctx, "maxmemory", "1").Err()) // less than an empty server has
	err := e.Add(ctx, "x", 1)
	require.ErrorContains(t, err, "OOM")
	require.NotErrorIs(t, err, ErrOutcomeUnknown)
	requireAside(t, e.Flush(ctx), 1, 0)
	require.Len(t, d.sums, 499)
	require.NoError(t, rdb.ConfigSet(ctx, "maxmemory", "0").Err())
	require.NoError(t, e.Add(ctx, "x", 1))
	require.NoError(t, e.Flush(ctx))
	require.Len(t, d.sums, 500)
}

func TestARedisThatMayEvictWhatIsPendingIsToldOf(t *testing.T) {
	t.Parallel()
	for policy, warns := range map[string]bool{"allkeys-lru": true, "volatile-lru": false, "noeviction": false} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, "--maxmemory-policy", policy)
			o := options(t, newDatabase(), Sum)
			o.Every = 50 * time.Millisecond
			told := make(chan *EvictionError, 1)
			o.Notify = func(err error) { // on a busy machine, Redis may fail first
				var evicts *EvictionError
				if errors.As(err, &evicts) {
					select {
					case told <- evicts:
					default: // it was told before
					}
				}
			}
			e := engine(t, server.Client(nil), o)
			ctx := bounded(t)
			if warns {
				e.Start()
				select {
				case evicts := <-told:
					require.Equal(t, policy, evicts.Policy)
				case <-ctx.Done():
					require.NoError(t, ctx.Err())
				}
				require.Equal(t, policy, e.Stats().Eviction)
				return
			}
			all, err := e.survey(ctx, true)
			require.NoError(t, err)
			require.Equal(t, policy, all[0].policy)
			e.warn(all)
			require.Empty(t, told)
			require.Empty(t, e.Stats().Eviction)
		})
	}
}

// The server is killed and started again: with no data, with all of its data,
// and with an older state.
func TestARedisThatRestarts(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T, args ...string) (*redistest.Server, *history) {
		server := redistest.Start(t, args...)
		h := newHistory(t, server.Client(nil), nil)
		h.add("x", 1)
		h.flush()
		return server, h
	}
	t.Run("empty", func(t *testing.T) {
		t.Parallel()
		server, h := start(t)
		h.add("x", 10) // lost
		server.Restart()
		h.add("x", 100)
		h.flush()
		require.EqualValues(t, 101, h.d.sum("x"))
		h.forked(Forks{Lost: 1}, ForkLost)
	})
	t.Run("with all that it had", func(t *testing.T) {
		t.Parallel()
		server, h := start(t, "--appendonly", "yes", "--appendfsync", "always")
		h.add("x", 10)
		_, err := h.e.take(h.ctx, 0, true)
		require.NoError(t, err)
		h.add("x", 100)
		server.Restart()
		h.flush()
		require.EqualValues(t, 111, h.d.sum("x"))
		require.Zero(t, h.e.Stats().Forks)
	})
	t.Run("as it was a batch ago", func(t *testing.T) {
		t.Parallel()
		server, h := start(t)
		h.add("x", 10)
		require.NoError(t, h.rdb.Save(h.ctx).Err())
		h.flush()
		server.Restart()
		h.add("x", 100)
		h.flush()
		require.EqualValues(t, 111, h.d.sum("x"))
		h.forked(Forks{Replayed: 1}, ForkReplayed)
	})
	t.Run("as it was two batches ago", func(t *testing.T) {
		t.Parallel()
		server, h := start(t)
		h.add("x", 10)
		require.NoError(t, h.rdb.Save(h.ctx).Err())
		h.flush()
		h.add("x", 100)
		h.flush()
		server.Restart()
		h.flush()
		require.EqualValues(t, 121, h.d.sum("x"), "10 twice, which is told")
		h.forked(Forks{RolledBack: 1}, ForkRolledBack)
	})
}

func TestBucketsSpreadOverACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3)
	rdb := cluster.Client(nil)
	d := newDatabase()
	o := options(t, d, Sum)
	o.Buckets = 48
	e := engine(t, rdb, o)
	ctx := bounded(t)
	nodes := map[string]int{}
	for i := range 300 {
		id := fmt.Sprint("id", i)
		require.NoError(t, e.Add(ctx, id, int64(i)))
		node, err := rdb.MasterForKey(ctx, e.Keys(e.Bucket(id)).Pending)
		require.NoError(t, err)
		nodes[node.Options().Addr]++
	}
	require.Len(t, nodes, 3)
	d.lock(func() { d.poison["id299"] = true })
	require.NoError(t, e.Add(ctx, "id299", 1))
	requireAside(t, e.Flush(ctx), 1, 0)
	for i := range 299 {
		require.EqualValues(t, i, d.sum(fmt.Sprint("id", i)))
	}
	_, err := e.Look(ctx, e.Bucket("id1"), "id1")
	require.NoError(t, err)
	d.lock(func() { delete(d.poison, "id299") })
	_, err = e.Retry(ctx)
	require.NoError(t, err)
	require.NoError(t, e.Close(ctx))
	require.EqualValues(t, 300, d.sum("id299"))
	sweeps(t, rdb, o, d)
}

// sweeps requires that an engine persists an id of each bucket by itself.
func sweeps(t *testing.T, rdb redis.UniversalClient, o Options, d *database) {
	t.Helper()
	o.Every = 50 * time.Millisecond
	e, ctx := engine(t, rdb, o), bounded(t)
	ids := spread(e)
	for _, id := range ids {
		require.NoError(t, e.Add(ctx, id, 1_000_000))
	}
	for _, id := range ids {
		require.Eventually(t, func() bool { return d.sum(id) >= 1_000_000 }, patience, 10*time.Millisecond)
	}
	require.NoError(t, e.Close(ctx))
}

// Only scripts touch the further keys of a script, so the proxy need not
// support hash tags.
func TestAProxyRunsEveryScriptOnTheServerOfItsBucket(t *testing.T) {
	t.Parallel()
	redistest.Binary(t, "nutcracker")
	var servers strings.Builder
	for range 2 {
		fmt.Fprintf(&servers, "   - %s:1\n", redistest.Start(t).Addr())
	}
	listen, config := fmt.Sprintf("127.0.0.1:%d", redistest.Port(t)), filepath.Join(t.TempDir(), "nutcracker.yml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil,
		"pool:\n  listen: %s\n  redis: true\n  distribution: ketama\n  auto_eject_hosts: false\n  servers:\n%s", listen, &servers), 0o600))
	redistest.Spawn(t, exec.Command("nutcracker", "--conf-file", config, "--stats-port", fmt.Sprint(redistest.Port(t)), "--stats-addr", "127.0.0.1"))
	rdb := redis.NewClient(&redis.Options{Addr: listen, Protocol: 2, DisableIdentity: true, ReadTimeout: redistest.Patience})
	t.Cleanup(func() { _ = rdb.Close() })
	noHello := new(redistest.Faults)
	noHello.Add(redistest.Fault{Match: redistest.Named("hello"), Times: redistest.Always, Err: answer("ERR unknown command 'HELLO'")})
	rdb.AddHook(noHello)
	ctx := bounded(t)
	for rdb.Get(ctx, "is it up").Err() != redis.Nil {
		require.NoError(t, ctx.Err())
		time.Sleep(10 * time.Millisecond)
	}
	d := newDatabase()
	o := options(t, d, Sum)
	o.Buckets = 16
	e := engine(t, rdb, o)
	for i := range 100 {
		require.NoError(t, e.Add(ctx, fmt.Sprint("id", i), int64(i)))
	}
	d.lock(func() { d.poison["id99"] = true })
	require.NoError(t, e.Add(ctx, "id99", 1))
	requireAside(t, e.Flush(ctx), 1, 0)
	for i := range 99 {
		require.EqualValues(t, i, d.sum(fmt.Sprint("id", i)))
	}
	refused, err := e.Refused(ctx)
	require.NoError(t, err)
	require.Len(t, refused, 1)
	require.NoError(t, e.Close(ctx))
	d.lock(func() { delete(d.poison, "id99") })
	sweeps(t, rdb, o, d)
}
