package conformance

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
)

// partly kills one master of a Cluster that lets the others go on, and requires that
// these do all that they are asked for, all the time.
func partly(t *testing.T, p *patient) {
	t.Helper()
	c := p.cluster
	// In no hurry, for whatever fails is to be the fault's.
	rdb := c.Client(&redis.ClusterOptions{ReadTimeout: patience, PoolTimeout: patience, MaxRetries: 1, DialerRetries: 1})
	probe, err := cachex.New(rdb, cachex.Spec[int, string]{Key: redistest.Key(t) + ":{id}", TTL: hour})
	require.NoError(t, err)
	atEnd(t, probe.Close)
	dead := c.Owner(p.caches[0].Key(0))
	var its, others []int
	for id := 0; len(its) < 2 || len(others) < 8; id++ {
		if c.Owner(probe.Key(id)) == dead {
			its = append(its, id)
		} else {
			others = append(others, id)
		}
	}
	use := func(id int) error {
		err := probe.Set(t.Context(), id, "value")
		if err == nil {
			_, err = probe.Get(t.Context(), id)
		}
		return err
	}
	for _, id := range append(its, others...) {
		require.NoError(t, use(id))
	}

	c.NodeTimeout(nodeTimeout)
	dead.Kill()
	known := c.OtherThan(dead).Client(nil)
	for done, failing, began := p.ops.Load()+150, false, time.Now(); !failing || p.ops.Load() < done; {
		require.Less(t, time.Since(began), patience, "nobody notices that a master is dead")
		info, err := known.ClusterInfo(t.Context()).Result()
		require.NoError(t, err)
		require.Contains(t, info, "cluster_state:ok", "the others do not go on")
		failing = !strings.Contains(info, "cluster_slots_fail:0\r\n")
		for _, id := range others {
			require.NoError(t, use(id), "a key of a master that lives")
		}
		for _, id := range its {
			require.Error(t, use(id), "a key of the master that is dead")
			p.struck++
		}
	}
	p.feels(t)
	dead.Restart()
	p.whole(t)
	eventually(t, "keys of the master that is back do not work", func() bool { return use(its[0]) == nil })
}

// grown is that a Cluster gets one more master, and does without it again.
func grown(t *testing.T, p *patient) {
	t.Helper()
	c := p.cluster
	keys := []string{p.caches[0].Key(0), p.caches[0].Key(1), p.counters[0].Key(0), p.counters[0].Key(2)}
	before := make([]*redistest.Server, len(keys))
	move := func(key string, to *redistest.Server) {
		steps := 0
		c.Move(c.Slot(key), to, func() {
			if steps++; steps < 20 { // each AddOnce has a key, and there are hundreds
				p.does(t, 1)
			}
		})
		p.does(t, 10)
	}
	added := c.Add()
	for i, key := range keys {
		before[i] = c.Owner(key)
		move(key, added)
	}
	// Of the crowd, each of whom may happen to do something else.
	eventually(t, "nobody uses the new master", func() bool { return added.CommandCount("get", "mget") > 0 && added.CommandCount("evalsha") > 0 })
	p.struck++
	for i, key := range keys {
		if before[i] != c.Owner(key) {
			move(key, before[i])
		}
	}
	c.Remove(added)
	p.does(t, 200)
}

// whole returns when all nodes hold that all slots are served.
func (p *patient) whole(t *testing.T) {
	t.Helper()
	for _, node := range p.cluster.Nodes() {
		rdb := node.Client(nil)
		eventually(t, "the cluster stays down", func() bool {
			info, err := rdb.ClusterInfo(t.Context()).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok\r\n") && strings.Contains(info, "cluster_slots_ok:16384\r\n")
		})
	}
}
