package conformance

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/sentinel"
)

// Where a fault cuts a network.
const (
	cutSentinel = "sentinel, cut"
	cutCluster  = "cluster, cut"
)

// faultsOfNetworks are partitions of servers. All clients reach both sides.
var faultsOfNetworks = []fault{{
	name: "Sentinel: the master and one Sentinel are cut off from the others (clients of package `sentinel`)", where: cutSentinel,
	sees: loads + ", until a replica has replaced it", stored: "the data of the replica; see below",
	shows: all(struck, dialled),
	hurt: func(t *testing.T, p *patient) {
		old := p.master(t)
		p.quietly(t, func() {
			replicated(t, old, 2)
			p.network.Cut()
			p.replaced(t, func() bool { return p.master(t) != old })
			// Until its proof is too old, a client may still read from the old master.
			began := time.Now()
			eventually(t, "a client still asks the old master", func() bool { return time.Since(began) > sentinel.MaxLag })
			p.turns(t, p.reading)
		})
		p.struck++
		p.does(t, 200)
		p.network.Mend()
		p.follows(t, old)
	},
}, {
	name: "Cluster: a master is cut off from the other nodes (`cluster-allow-reads-when-down no`, the default)", where: cutCluster,
	sees: "other keys are not affected. Keys of its slots: " + loads + ", until its replica has replaced it", stored: "the data of the replica; see below",
	shows: all(struck, seen("CLUSTERDOWN ")),
	hurt: func(t *testing.T, p *patient) {
		nodes := p.cluster.Nodes()
		old := nodes[2]
		key := p.caches[0].Key(0) // eight keys that differ in their last digit are on all masters
		for id := 0; p.cluster.Owner(key) != old; id++ {
			require.Less(t, id, crowdKeys, "no key of the crowd is on the master")
			key = p.caches[0].Key(id)
		}
		p.quietly(t, func() {
			replicated(t, old, 1)
			p.network.Cut()
			eventually(t, "no replica takes over", func() bool { return p.cluster.Owner(key) != old })
			cutOff(t, old)
		})
		p.struck++
		p.does(t, 200)
		p.feels(t)
		p.network.Mend()
		p.follows(t, old)
		p.whole(t)
	},
}}

// cutOff returns when a node of a Cluster knows that it is cut off.
func cutOff(t *testing.T, node *redistest.Server) {
	t.Helper()
	rdb := node.Client(nil)
	eventually(t, "the node does not know that it is cut off", func() bool {
		info, err := rdb.ClusterInfo(t.Context()).Result()
		return err == nil && strings.Contains(info, "cluster_state:fail")
	})
}

func acrossSentinels(t *testing.T, n *redistest.Network) *patient {
	t.Helper()
	p := &patient{sentinel: redistest.StartSentinels(n), network: n}
	o := &redis.Options{}
	options(o)
	client := func() *redis.Client {
		rdb, err := sentinel.NewClient(&redis.FailoverOptions{
			MasterName: redistest.MasterName, SentinelAddrs: p.sentinel.Addrs(),
			ContextTimeoutEnabled: true, MaxRetries: o.MaxRetries, DialerRetries: o.DialerRetries,
			DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout, PoolTimeout: o.PoolTimeout,
		})
		require.NoError(t, err)
		rdb.AddHook(&p.witness)
		return closed(t, rdb)
	}
	p.crowd = newCrowd(t, true, client(), client())
	return p
}

// A cut is a key with a value that was loaded before, and what reads and deletes it.
type cut struct {
	source         *source
	key            int
	reader, writer *cachex.Cache[int, string]
}

const before, since = "value 0", "new"

func newCut(t *testing.T, reader, writer redis.UniversalClient) *cut {
	t.Helper()
	c := &cut{source: newSource(100)}
	template := redistest.Key(t) + ":{id}"
	open := func(rdb redis.UniversalClient) *cachex.Cache[int, string] {
		cache, err := cachex.New(rdb, cachex.Spec[int, string]{Key: template, TTL: hour, Up: c.source.up})
		require.NoError(t, err)
		atEnd(t, cache.Close)
		return cache
	}
	c.reader, c.writer = open(reader), open(writer)
	return c
}

// warm stores the value, and has the replicas of its master get it.
func (c *cut) warm(t *testing.T, master *redistest.Server, replicas int) {
	t.Helper()
	for range 2 {
		for _, cache := range []*cachex.Cache[int, string]{c.writer, c.reader} {
			_, err := cache.Get(t.Context(), c.key)
			require.NoError(t, err)
		}
	}
	replicated(t, master, replicas)
}

// replace commits a new value and deletes the old one.
func (c *cut) replace(t *testing.T) {
	t.Helper()
	c.source.put(c.key, since)
	eventually(t, "the new master takes no deletion", func() bool { return c.writer.Delete(t.Context(), c.key) == nil })
}

func (c *cut) read(t *testing.T) string {
	t.Helper()
	v, err := c.reader.Get(t.Context(), c.key)
	require.NoError(t, err)
	return v
}

// It is what docs/reliability.md says of redis.NewFailoverClient, and why there is a
// package sentinel.
func TestSentinel_AReaderOfAMasterThatIsCutOffIsStaleUntilTheCutEnds(t *testing.T) {
	t.Parallel()
	redistest.InNetwork(t, func(t *testing.T, n *redistest.Network) {
		s := redistest.StartSentinels(n)
		old := s.Master()
		c := newCut(t, s.Client(&redis.FailoverOptions{SentinelAddrs: s.Addrs()[:1]}), s.Client(&redis.FailoverOptions{SentinelAddrs: s.Addrs()[1:]}))
		c.warm(t, old, 2)
		n.Cut()
		s.AwaitMaster(old)
		left(t, c.writer, s.Master())
		c.replace(t)
		for range 100 {
			require.Equal(t, before, c.read(t))
		}

		// Two replicas are needed: with one, a master that was elected has none.
		for _, other := range s.Servers() {
			if other != old && other != s.Master() {
				other.Kill()
			}
		}
		eventually(t, "a master without a replica takes a deletion", func() bool {
			err := c.writer.Delete(t.Context(), c.key)
			return err != nil && strings.Contains(err.Error(), "NOREPLICAS")
		})
		n.Mend()
		eventually(t, "the reader stays with the old master", func() bool { return c.read(t) == since })
	})
}

// left returns when a cache writes to master.
func left(t *testing.T, cache *cachex.Cache[int, string], master *redistest.Server) {
	t.Helper()
	rdb := master.Client(nil)
	const probe = 99
	eventually(t, "the writer does not find the new master", func() bool {
		return cache.Set(t.Context(), probe, "") == nil && rdb.Exists(t.Context(), cache.Key(probe)).Val() == 1
	})
}

func TestCluster_AMasterThatIsCutOffServesDeletedValuesOnlyIfReadsAreAllowedWhenDown(t *testing.T) {
	t.Parallel()
	for allowed, want := range map[string]string{"no": since, "yes": before} {
		t.Run(allowed, func(t *testing.T) {
			t.Parallel()
			redistest.InNetwork(t, func(t *testing.T, n *redistest.Network) {
				cluster := redistest.StartCluster(t, 3, redistest.WithReplicas(nodeTimeout), redistest.Across(n),
					redistest.WithArgs("--cluster-allow-reads-when-down", allowed))
				old := cluster.Nodes()[2]
				// The reader asks for the slots only if it gets an error.
				c := newCut(t, cluster.Client(&redis.ClusterOptions{ClusterStateReloadInterval: time.Hour, MaxRedirects: 1}), cluster.Client(nil))
				for cluster.Owner(c.reader.Key(c.key)) != old {
					c.key++
				}
				was := c.source.value(c.key)
				if want == before {
					want = was
				}
				c.warm(t, old, 1)
				n.Cut()
				eventually(t, "no replica takes over", func() bool { return cluster.Owner(c.reader.Key(c.key)) != old })
				cutOff(t, old)
				c.replace(t)
				for range 100 {
					require.Equal(t, want, c.read(t))
				}
				n.Mend()
				eventually(t, "the reader stays with the old master", func() bool { return c.read(t) == since })
			})
		})
	}
}
