package conformance

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// faultsOfNodes are those of one of several servers.
var faultsOfNodes = []fault{{
	name: "Sentinel: the master is killed", where: "sentinel", sees: loads + ", until the replica has replaced it", stored: "the data of the replica; see below",
	shows: all(struck, gone),
	hurt:  func(t *testing.T, p *patient) { p.fails(t, (*redistest.Server).Kill) },
}, {
	name: "Sentinel: the master is stopped, and continues after its replacement", where: "sentinel", sees: loads + ", until the replica has replaced it", stored: "the data of the replica; see below",
	shows: all(struck, silence),
	hurt: func(t *testing.T, p *patient) {
		old := p.fails(t, (*redistest.Server).Stop)
		_, port, err := net.SplitHostPort(old.Addr())
		require.NoError(t, err)
		for _, rdb := range p.clients {
			eventually(t, "a client still asks who was the master", func() bool {
				info, err := rdb.Info(t.Context(), "server").Result()
				return err == nil && !strings.Contains(info, "tcp_port:"+port+"\r")
			})
		}
		// Who asked before has given up. Until the Sentinel has made it a replica, a master
		// that was stopped goes on as one, and what it is told is lost.
		p.turns(t, p.done)
		old.Cont()
	},
}, {
	name: "Sentinel: the replica replaces a living master (`SENTINEL FAILOVER`)", where: "sentinel", sees: worst, stored: "the data of the replica; see below",
	shows: struck, hurt: planned,
}, {
	name: "Cluster: a master is killed", where: "cluster", sees: "other keys are not affected. Keys of its slots: " + loads, stored: "the data of the replica; see below",
	shows: all(struck, gone),
	hurt:  func(t *testing.T, p *patient) { p.fails(t, (*redistest.Server).Kill) },
}, {
	name: "Cluster: a master is stopped, continues as a replica, and becomes master again (`CLUSTER FAILOVER`)", where: "cluster", sees: "as if it were killed; `GetMany` loads the missing keys of the others while it is silent. The rest does not affect reads", stored: "the data of the replica; see below",
	shows: all(struck, silence),
	hurt: func(t *testing.T, p *patient) {
		old := p.fails(t, (*redistest.Server).Stop)
		master := p.master(t)
		for _, rdb := range p.clients {
			eventually(t, "a client still asks who was the master", func() bool {
				now, err := rdb.(*redis.ClusterClient).MasterForKey(t.Context(), p.caches[0].Key(0))
				return err == nil && now.Options().Addr == master.Addr()
			})
		}
		// Whoever asked before has given up. Else he might be answered as of old: until it
		// hears of the others, a master that was stopped does not know that it is none.
		p.turns(t, p.done)
		old.Cont()
		p.follows(t, old)
		p.does(t, 100)
		// What it has missed it has got by now, or it would be seen here.
		rdb := old.Client(nil)
		p.quietly(t, func() {
			var asked time.Time
			eventually(t, "it does not get its place back", func() bool {
				if time.Since(asked) > 6*time.Second { // after five, a replica gives up
					asked = time.Now()
					_ = rdb.Do(t.Context(), "cluster", "failover").Err() // of one that is the master by now
				}
				return p.master(t) == old
			})
			p.follows(t, master)
		})
		p.struck++
	},
}, {
	name: "Cluster: a master without a replica is killed and restarts (`CLUSTERDOWN`)", where: "headless", sees: loads, stored: nothing,
	shows: all(gone, seen("CLUSTERDOWN ")),
	hurt: func(t *testing.T, p *patient) {
		master := p.cluster.Owner(p.caches[0].Key(0))
		p.cluster.NodeTimeout(nodeTimeout)
		master.Kill()
		p.suffers(t, 150)
		master.Restart()
		p.whole(t)
	},
}, {
	name: "Cluster: a master without a replica is killed and restarts, and the others continue (`cluster-require-full-coverage no`)", where: "partial", sees: "other keys are not affected. Keys of its slots: " + loads, stored: nothing,
	shows: all(struck, gone), hurt: partly,
}, {
	name: "Cluster: slots move, and back", where: "moving", sees: "nothing: `ASK` and `MOVED` are followed. Counts with `Down`, and `AddOnce`, may return `TRYAGAIN`, and have added nothing", stored: "everything, leases and counts too",
	shows: all(seen("MOVED "), seen("ASK "), seen("TRYAGAIN ")),
	hurt: func(t *testing.T, p *patient) {
		c := p.cluster
		for range 2 {
			for _, key := range []string{p.caches[0].Key(0), p.caches[0].Key(1), p.counters[0].Key(0), p.counters[0].Key(2)} {
				refused, steps := p.witness.count("TRYAGAIN "), 0
				c.Move(c.Slot(key), c.OtherThan(c.Owner(key)), func() {
					if steps++; steps > 20 { // each AddOnce has a key, and there are hundreds
						return
					}
					p.does(t, 1)
					if key == p.counters[0].Key(0) { // every AddOnce has a key that is on neither side
						eventually(t, "scripts of several keys are not refused", func() bool { return p.witness.count("TRYAGAIN ") > refused })
					}
				})
				p.does(t, 10)
			}
		}
	},
}, {
	name: "Cluster: a master is added, slots move to it and back, and it is removed", where: "moving", sees: "as if slots moved between two permanent masters", stored: "everything, leases and counts too",
	shows: all(struck, seen("MOVED "), seen("ASK ")), hurt: grown,
}, {
	name: "twemproxy: a server behind it is killed and restarts", where: "twemproxy", sees: "reads load; `ERR Connection refused`, or `ErrOutcomeUnknown` of writes and counts", stored: nothing,
	shows: seen("Connection refused"), hurt: killed,
}, {
	name: "twemproxy: a server behind it is stopped", where: "twemproxy", sees: "reads load after `timeout` of the proxy; `ErrOutcomeUnknown` of writes and counts", stored: stopped,
	shows: seen("Connection timed out"), hurt: halted,
}}

// fails has the master fail once its replica has all that was acknowledged, and returns
// it when another one has its place. What the replica has not would be lost, and no
// cache can help that.
func (p *patient) fails(t *testing.T, how func(*redistest.Server)) *redistest.Server {
	t.Helper()
	master := p.master(t)
	p.quietly(t, func() {
		replicated(t, master, 1)
		if p.sentinel != nil {
			p.sentinel.Keep(false)
		} else {
			p.cluster.NodeTimeout(nodeTimeout)
		}
		how(master)
	})
	p.replaced(t, func() bool { return p.master(t) != master })
	p.struck++
	p.does(t, 100)
	return master
}

// replaced returns when a replica has the place of a master. A Sentinel that has stood
// still for two seconds does nothing for thirty.
func (p *patient) replaced(t *testing.T, is func() bool) {
	t.Helper()
	require.Eventually(t, is, 2*patience, 5*time.Millisecond, "no replica takes over")
}

// planned is a failover of a master that lives. The old one takes commands until the
// Sentinel has made it a replica, ten seconds later, and what it is told until then is
// lost; so nobody writes before all have left it.
func planned(t *testing.T, p *patient) {
	t.Helper()
	old := p.master(t)
	rdb := old.Client(nil)
	used := func() bool {
		// By more than the connection that waits for messages, which may stay.
		clients, err := rdb.Do(t.Context(), "client", "list", "type", "normal").Text()
		require.NoError(t, err, "the old master does not live")
		return strings.Contains(clients, " name=crowd ")
	}
	left := func() {
		t.Helper()
		eventually(t, "the old master is still used", func() bool { return !used() })
	}
	p.quietly(t, func() {
		require.True(t, used())
		replicated(t, old, 1)
		p.sentinel.Failover()
		left()
		p.turns(t, p.reading) // who asked before for the master has dialled it by now
		left()
	})
	p.struck++
	p.does(t, 100)
	require.False(t, used())
}

// replicated returns when so many replicas have all that their master has acknowledged.
func replicated(t *testing.T, master *redistest.Server, replicas int) {
	t.Helper()
	rdb := master.Client(nil)
	info := func() []string {
		text, err := rdb.Info(t.Context(), "replication").Result()
		require.NoError(t, err)
		return strings.Split(text, "\r\n")
	}
	offset := func(of, after string) int64 {
		_, rest, _ := strings.Cut(of, after)
		digits, _, _ := strings.Cut(rest, ",")
		n, err := strconv.ParseInt(digits, 10, 64)
		require.NoError(t, err, of)
		return n
	}
	// By offsets, and not by WAIT: that waits for what its connection has written, and in
	// a Cluster the key to write may be another node's.
	var written int64
	for _, line := range info() {
		if strings.HasPrefix(line, "master_repl_offset:") {
			written = offset(line, ":")
		}
	}
	eventually(t, "the replicas have not all that was written", func() bool {
		have := 0
		for _, line := range info() {
			if strings.HasPrefix(line, "slave") && strings.Contains(line, "state=online") && offset(line, "offset=") >= written {
				have++
			}
		}
		return have >= replicas
	})
}

// master is who has the first key.
func (p *patient) master(t *testing.T) *redistest.Server {
	t.Helper()
	if p.sentinel != nil {
		return p.sentinel.Master()
	}
	return p.cluster.Owner(p.caches[0].Key(0))
}

// follows returns when node is a replica, and has what its master has.
func (p *patient) follows(t *testing.T, node *redistest.Server) {
	t.Helper()
	rdb := node.Client(nil)
	eventually(t, "it is not a replica", func() bool {
		info, err := rdb.Info(t.Context(), "replication").Result()
		return err == nil && strings.Contains(info, "role:slave") && strings.Contains(info, "master_link_status:up")
	})
}

func behindSentinel(t *testing.T) *patient {
	p := &patient{sentinel: redistest.StartSentinel(t)}
	p.sentinel.Keep(true)
	o := &redis.Options{}
	options(o)
	client := func() *redis.Client {
		rdb := p.sentinel.Client(&redis.FailoverOptions{
			ContextTimeoutEnabled: true, MaxRetries: o.MaxRetries, DialerRetries: o.DialerRetries,
			DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout, PoolTimeout: o.PoolTimeout,
			ClientName: "crowd",
		})
		rdb.AddHook(&p.witness)
		return rdb
	}
	p.crowd = newCrowd(t, true, client(), client())
	p.lost = p.unanswered
	return p
}

// onCluster returns the patient that a Cluster is.
func onCluster(t *testing.T, masters int, with ...redistest.ClusterOption) *patient {
	t.Helper()
	p := &patient{cluster: redistest.StartCluster(t, masters, with...)}
	o := &redis.Options{}
	options(o)
	client := func() *redis.ClusterClient {
		rdb := p.cluster.Client(&redis.ClusterOptions{
			ContextTimeoutEnabled: true, MaxRetries: o.MaxRetries, DialerRetries: o.DialerRetries,
			DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, WriteTimeout: o.WriteTimeout, PoolTimeout: o.PoolTimeout,
		})
		rdb.OnNewNode(func(node *redis.Client) { node.AddHook(&p.witness) })
		return rdb
	}
	p.crowd = newCrowd(t, true, client(), client())
	p.lost = p.unanswered
	return p
}
