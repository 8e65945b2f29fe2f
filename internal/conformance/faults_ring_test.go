package conformance

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
)

// faultsOfShards are the faults of one shard of a Ring. The Ring never drops a shard,
// as docs/client.md recommends.
var faultsOfShards = []fault{{
	name: "Ring: a shard is killed and restarts", where: "ring", stored: nothing,
	sees:  "other keys are not affected. Keys of the shard: " + loads,
	shows: all(struck, gone), hurt: shardKilled,
}, {
	name: "Ring: one process cannot reach a shard that the others use", where: "ring", stored: "by the other processes, everything",
	sees:  "in that process, as if the shard were killed. The others notice nothing",
	shows: all(gone, spoilt),
	hurt: func(t *testing.T, p *patient) {
		p.proxy.Refuse()
		p.proxy.Cut()
		p.suffers(t, 150)
		p.proxy.Accept()
	},
}}

// onRing returns the patient that a Ring of two shards is. One client of the crowd
// reaches the shard of the first key through the proxy.
func onRing(t *testing.T) *patient {
	t.Helper()
	p := new(patient)
	var servers, proxied = []*redistest.Server{}, map[string]*redistest.Proxy{}
	for range 2 {
		s := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "no")
		servers, proxied[s.Addr()] = append(servers, s), redistest.NewProxy(t, s.Addr())
	}
	o := &redis.Options{}
	options(o)
	ring := func(dial dialer) *redis.Ring {
		rdb := redistest.Ring(t, &redis.RingOptions{
			ContextTimeoutEnabled: true, MaxRetries: o.MaxRetries, DialerRetries: o.DialerRetries, Dialer: dial,
			DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout, PoolTimeout: o.PoolTimeout,
		}, servers...)
		rdb.AddHook(&p.witness)
		return rdb
	}
	a := ring(through(proxied))
	p.crowd = newCrowd(t, true, a, ring(nil))
	p.server = shardOf(t, a, servers, p.caches[0].Key(0))
	p.proxy, p.admin = proxied[p.server.Addr()], p.server.Client(nil)
	return p
}

// through dials the proxy of an address.
func through(proxied map[string]*redistest.Proxy) dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, proxied[addr].Addr())
	}
}

// shardOf returns the server that has a key.
func shardOf(t *testing.T, ring *redis.Ring, servers []*redistest.Server, key string) *redistest.Server {
	t.Helper()
	shard, err := ring.GetShardClientForKey(key)
	require.NoError(t, err)
	for _, s := range servers {
		if s.Addr() == shard.Options().Addr {
			return s
		}
	}
	require.Fail(t, "the Ring has a foreign shard")
	return nil
}

// shardKilled kills the shard of the first key, and requires that reads and writes of
// the keys of the other shard succeed all the time.
func shardKilled(t *testing.T, p *patient) {
	t.Helper()
	o := *p.clients[1].(*redis.Ring).Options()
	o.ReadTimeout, o.PoolTimeout = patience, patience // what fails is to be the fault's
	rdb := redis.NewRing(&o)
	t.Cleanup(func() { _ = rdb.Close() })
	probe, err := cachex.New(rdb, cachex.Spec[int, string]{Key: redistest.Key(t) + ":{id}", TTL: hour})
	require.NoError(t, err)
	atEnd(t, probe.Close)
	var its, others []int
	for id := 0; len(its) < 2 || len(others) < 8; id++ {
		shard, err := rdb.GetShardClientForKey(probe.Key(id))
		require.NoError(t, err)
		if shard.Options().Addr == p.server.Addr() {
			its = append(its, id)
		} else {
			others = append(others, id)
		}
	}
	p.server.Kill()
	for done := p.ops.Load() + 150; p.ops.Load() < done; {
		for _, id := range others {
			require.NoError(t, probe.Set(t.Context(), id, "value"), "a key of a shard that lives")
			_, err := probe.Get(t.Context(), id)
			require.NoError(t, err, "a key of a shard that lives")
			require.NoError(t, probe.Delete(t.Context(), id), "a key of a shard that lives")
		}
		for _, id := range its {
			require.Error(t, probe.Set(t.Context(), id, "value"), "a key of the shard that is dead")
			require.Error(t, probe.Delete(t.Context(), id), "a key of the shard that is dead")
			p.struck++
		}
	}
	p.feels(t)
	p.server.Restart()
}

// A flap is a shard that one process cannot reach for a while. The other process can.
type flap struct {
	ring    *redis.Ring // of the first process
	caches  [2]*cachex.Cache[int, string]
	source  *source
	line    *redistest.Proxy // of the first process, to the shard
	key     int              // a key of the shard
	another int              // a key of the other shard
}

// newFlap returns a flap of Rings with the heartbeats.
func newFlap(t *testing.T, heartbeats time.Duration, accepts bool) *flap {
	t.Helper()
	servers, proxied := []*redistest.Server{redistest.Start(t), redistest.Start(t)}, map[string]*redistest.Proxy{}
	for _, s := range servers {
		proxied[s.Addr()] = redistest.NewProxy(t, s.Addr())
	}
	f := &flap{source: newSource(100)}
	template := redistest.Key(t) + ":{id}"
	for i, dial := range []dialer{through(proxied), nil} {
		ring := redistest.Ring(t, &redis.RingOptions{
			HeartbeatFrequency: heartbeats, Dialer: dial, MaxRetries: -1, DialerRetries: 1, ReadTimeout: patience, PoolTimeout: patience,
		}, servers...)
		cache, err := cachex.New(ring, cachex.Spec[int, string]{Key: template, TTL: hour, Up: f.source.up, AllowStaleReads: accepts})
		require.NoError(t, err)
		atEnd(t, cache.Close)
		f.caches[i] = cache
		if i == 0 {
			f.ring = ring
		}
	}
	shard := shardOf(t, f.ring, servers, f.caches[0].Key(f.key))
	for f.another = 1; shardOf(t, f.ring, servers, f.caches[0].Key(f.another)) == shard; f.another++ {
	}
	f.line = proxied[shard.Addr()]
	for _, id := range []int{f.key, f.another} {
		require.Equal(t, f.source.value(id), f.get(t, 0, id))
	}
	return f
}

func (f *flap) get(t *testing.T, process, id int) string {
	t.Helper()
	v, err := f.caches[process].Get(t.Context(), id)
	require.NoError(t, err)
	return v
}

// cut ends the line to the shard, and mend returns it.
func (f *flap) cut()  { f.line.Refuse(); f.line.Cut() }
func (f *flap) mend() { f.line.Accept() }

// It shows why New refuses a Ring with heartbeats: nothing but AllowStaleReads lets
// this happen.
func TestRing_AShardThatWasDroppedBringsDeletedValuesBack(t *testing.T) {
	t.Parallel()
	f := newFlap(t, 20*time.Millisecond, true)
	old := f.source.value(f.key)
	f.cut()
	eventually(t, "the Ring does not drop the shard", func() bool { return f.ring.Len() == 1 })
	f.source.put(f.key, "new")
	require.NoError(t, f.caches[0].Delete(t.Context(), f.key), "on the substitute")
	require.Equal(t, "new", f.get(t, 0, f.key))
	require.Equal(t, old, f.get(t, 1, f.key), "of the other process, which has not dropped the shard")

	f.mend()
	eventually(t, "the shard does not return", func() bool { return f.ring.Len() == 2 })
	require.Equal(t, old, f.get(t, 0, f.key))

	// The substitute has an old copy as well.
	f.source.put(f.key, "newer")
	require.NoError(t, f.caches[0].Delete(t.Context(), f.key))
	f.cut()
	eventually(t, "the Ring does not drop the shard", func() bool { return f.ring.Len() == 1 })
	require.Equal(t, "new", f.get(t, 0, f.key))
}

func TestRing_AShardThatIsNeverDroppedBringsNothingBack(t *testing.T) {
	t.Parallel()
	f := newFlap(t, cachex.Forever, false)
	for _, id := range []int{f.key, f.another} {
		require.Equal(t, f.source.value(id), f.get(t, 1, id))
	}
	f.cut()
	f.source.put(f.key, "new")
	f.source.put(f.another, "new")
	require.Error(t, f.caches[0].Delete(t.Context(), f.key), "the shard is not reached, and no other one is asked")
	require.Equal(t, "new", f.get(t, 0, f.key), "a read loads")
	require.NoError(t, f.caches[0].Delete(t.Context(), f.another), "a key of the other shard")
	require.Equal(t, 2, f.ring.Len())
	for process := range f.caches {
		require.Equal(t, "new", f.get(t, process, f.another))
	}

	f.mend()
	eventually(t, "the shard is not used again", func() bool { return f.caches[0].Delete(t.Context(), f.key) == nil })
	for range 20 { // a breaker may still be open, and a read loads
		for process := range f.caches {
			require.Equal(t, "new", f.get(t, process, f.key))
		}
	}
}
