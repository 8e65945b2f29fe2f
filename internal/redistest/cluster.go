package redistest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// slots is the number of slots of a Redis Cluster.
const slots = 16384

// Cluster is a Redis Cluster of masters that each have an equal share of the
// slots. With WithReplicas, each master has one replica.
//
// Its methods may fail the test, so they must run in the test's own goroutine.
type Cluster struct {
	t       testing.TB
	nodes   []*Server // the first masters, then their replicas in the same order, then nodes of Add
	masters int
	args    []string // of each node
}

// ClusterOption changes the cluster that StartCluster starts.
type ClusterOption func(*clusterOptions)

type clusterOptions struct {
	replicas bool
	args     []string
	network  *Network
}

// WithReplicas gives each master a replica. If the other nodes hear nothing
// from the master for nodeTimeout, the replica takes its place. On a busy
// machine nodeTimeout must be long, unless the test is about a failover.
func WithReplicas(nodeTimeout time.Duration) ClusterOption {
	return func(o *clusterOptions) {
		o.replicas = true
		o.args = append(o.args, "--cluster-node-timeout", strconv.FormatInt(nodeTimeout.Milliseconds(), 10),
			"--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0")
	}
}

// WithArgs adds arguments to the command line of every node.
func WithArgs(args ...string) ClusterOption {
	return func(o *clusterOptions) { o.args = append(o.args, args...) }
}

// Across starts the last of the first masters on one side of the network, and
// all other nodes on the other side.
func Across(n *Network) ClusterOption {
	return func(o *clusterOptions) { o.network = n }
}

// StartCluster runs a cluster for one test. It returns when every node knows
// the others and serves, which takes Redis some seconds. The nodes are stopped
// when the test ends. If redis-server is missing, the test is skipped; see
// [Binary].
func StartCluster(t testing.TB, masters int, options ...ClusterOption) *Cluster {
	t.Helper()
	// No master is taken for dead because its machine stood still. An option may
	// set a shorter time, since the last argument counts.
	o := clusterOptions{args: []string{"--cluster-enabled", "yes", "--cluster-node-timeout", "3600000"}}
	for _, option := range options {
		option(&o)
	}
	c := &Cluster{t: t, masters: masters, args: o.args}
	nodes := masters
	if o.replicas {
		nodes *= 2
	}
	for i := range nodes {
		var on *side
		if o.network != nil {
			on = o.network.sides[1]
			if i == masters-1 {
				on = o.network.sides[0]
			}
		}
		c.nodes = append(c.nodes, startOn(t, on, nil, o.args...))
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	// All nodes must get an epoch before any of them hears of another one.
	// Afterwards a node accepts no epoch.
	for i, node := range c.nodes {
		if err := c.assign(ctx, i, node); err != nil {
			t.Fatalf("redistest: %v", err)
		}
	}
	// All at the same time, since each waits for the others.
	if err := c.each(c.nodes, func(_ int, node *Server) error { return c.join(ctx, node) }); err != nil {
		t.Fatalf("redistest: %v", err)
	}
	if err := c.each(c.nodes[masters:], func(i int, node *Server) error { return c.replicate(ctx, c.nodes[i], node) }); err != nil {
		t.Fatalf("redistest: %v", err)
	}
	return c
}

// Nodes returns the first masters, then their replicas, then the nodes of Add.
func (c *Cluster) Nodes() []*Server { return slices.Clone(c.nodes) }

// Addrs returns the host and port of each node.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.nodes))
	for i, node := range c.nodes {
		addrs[i] = node.Addr()
	}
	return addrs
}

// Client returns a client of the cluster, which is closed when the test ends.
// opts may be nil. Client replaces its Addrs by the nodes of the cluster.
func (c *Cluster) Client(opts *redis.ClusterOptions) *redis.ClusterClient {
	var o redis.ClusterOptions
	if opts != nil {
		o = *opts
	}
	o.ReadTimeout, o.WriteTimeout = cmp.Or(o.ReadTimeout, replyTimeout()), cmp.Or(o.WriteTimeout, replyTimeout())
	o.Addrs = c.Addrs()
	rdb := redis.NewClusterClient(&o)
	c.t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// Owner returns the master that serves the slot of key, as the other nodes see
// it.
func (c *Cluster) Owner(key string) *Server {
	c.t.Helper()
	return c.owner(c.Slot(key))
}

// OtherThan returns one of the first masters other than node.
func (c *Cluster) OtherThan(node *Server) *Server {
	if c.nodes[0] == node {
		return c.nodes[1]
	}
	return c.nodes[0]
}

// Slot returns the slot of key.
func (c *Cluster) Slot(key string) (slot int) {
	c.t.Helper()
	c.ask(func(ctx context.Context, rdb *redis.Client) error {
		n, err := rdb.ClusterKeySlot(ctx, key).Result()
		slot = int(n)
		return err
	})
	return slot
}

// Move migrates slot, and the keys in it one by one and in no order, to another
// master, as redis-cli does. ASK and MOVED redirect clients meanwhile. If
// moving is not nil, it is called between the keys. Move returns when all nodes
// know the new owner.
func (c *Cluster) Move(slot int, to *Server, moving func()) {
	c.t.Helper()
	ctx := context.Background() // each command has its timeout, and moving may take any time
	from := c.owner(slot)
	source, target := from.Client(nil), to.Client(nil)
	fail := func(err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatalf("redistest: slot %d does not move: %v", slot, err)
		}
	}
	id := func(rdb *redis.Client) string {
		id, err := rdb.Do(ctx, "cluster", "myid").Text()
		fail(err)
		return id
	}
	fail(target.Do(ctx, "cluster", "setslot", slot, "importing", id(source)).Err())
	fail(source.Do(ctx, "cluster", "setslot", slot, "migrating", id(target)).Err())
	for {
		keys, err := source.ClusterGetKeysInSlot(ctx, slot, 1000).Result()
		fail(err)
		if len(keys) == 0 {
			break
		}
		if err := source.Migrate(ctx, "127.0.0.1", strconv.Itoa(to.port), keys[rand.IntN(len(keys))], 0, Patience).Err(); err != nil && err != redis.Nil {
			fail(err) // NOKEY, a nil error, means that the key expired meanwhile
		}
		if moving != nil {
			moving()
		}
	}
	fail(target.Do(ctx, "cluster", "setslot", slot, "node", id(target)).Err())
	for _, other := range c.nodes { // as redis-cli does: otherwise they would hear of it a second later
		if other == to {
			continue
		}
		err := other.Client(nil).Do(ctx, "cluster", "setslot", slot, "node", id(target)).Err()
		if err == nil || !strings.Contains(err.Error(), "SETSLOT only with masters") {
			fail(err) // a node that gave away its last slot has become a replica
		}
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	fail(c.agree(ctx, slot, id(target)))
}

func (c *Cluster) owner(slot int) (master *Server) {
	c.t.Helper()
	c.ask(func(ctx context.Context, rdb *redis.Client) error {
		// ClusterSlots does not serve: go-redis deprecates it in favour of a
		// command that Redis 6.2 lacks.
		ranges, err := rdb.Do(ctx, "cluster", "slots").Slice()
		master = c.node(serves(ranges, slot, 0) + ":" + serves(ranges, slot, 1))
		return err
	})
	if master == nil {
		c.t.Fatalf("redistest: nobody serves slot %d", slot)
	}
	return master
}

// ask calls f with the first node that answers, and repeats until a node does.
// A node may be stopped, so a call must not use up all the time, and one second
// may be too short.
func (c *Cluster) ask(f func(context.Context, *redis.Client) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := until(ctx, func() (bool, error) {
		err := c.askOnce(ctx, f)
		return err == nil, err
	}); err != nil {
		c.t.Fatalf("redistest: no node answers: %v", err)
	}
}

func (c *Cluster) askOnce(ctx context.Context, f func(context.Context, *redis.Client) error) error {
	var errs []error
	for _, node := range c.nodes {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		rdb := redis.NewClient(&redis.Options{Addr: node.Addr(), MaxRetries: -1, ContextTimeoutEnabled: true, DialerRetries: 1})
		err := f(ctx, rdb)
		_ = rdb.Close()
		cancel()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c *Cluster) node(addr string) *Server {
	for _, node := range c.nodes {
		if node.Addr() == addr {
			return node
		}
	}
	return nil
}

// each calls f for all nodes at the same time.
func (c *Cluster) each(nodes []*Server, f func(i int, node *Server) error) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, node := range nodes {
		wg.Go(func() { errs[i] = f(i, node) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// assign gives node, the ith, its epoch and its slots.
func (c *Cluster) assign(ctx context.Context, i int, node *Server) error {
	rdb := node.connect()
	defer func() { _ = rdb.Close() }()
	// Epochs differ from the start. Otherwise the nodes would first have to
	// agree on them.
	if err := rdb.Do(ctx, "cluster", "set-config-epoch", i+1).Err(); err != nil {
		return err
	}
	if i >= c.masters {
		return nil // will be a replica
	}
	// go-redis sends this as ADDSLOTS, which Redis 6.2 needs.
	first, end := i*slots/c.masters, (i+1)*slots/c.masters
	return rdb.ClusterAddSlotsRange(ctx, first, end-1).Err()
}

// join adds node to the cluster, and returns when it serves.
func (c *Cluster) join(ctx context.Context, node *Server) error {
	rdb := node.connect()
	defer func() { _ = rdb.Close() }()
	for _, other := range c.nodes {
		if other == node {
			continue
		}
		if err := rdb.ClusterMeet(ctx, other.side.address(), fmt.Sprint(other.port)).Err(); err != nil {
			return err
		}
	}
	known := fmt.Sprintf("cluster_known_nodes:%d\r\n", len(c.nodes))
	return until(ctx, func() (bool, error) {
		info, err := rdb.ClusterInfo(ctx).Result()
		return strings.Contains(info, "cluster_state:ok\r\n") && strings.Contains(info, known), err
	})
}

// replicate makes node the replica of master. It returns when node has the data
// of master and all nodes know of it.
func (c *Cluster) replicate(ctx context.Context, master, node *Server) error {
	rdb, of := node.connect(), master.connect()
	defer func() { _, _ = rdb.Close(), of.Close() }()
	id, err := of.Do(ctx, "cluster", "myid").Text()
	if err != nil {
		return err
	}
	if err := rdb.ClusterReplicate(ctx, id).Err(); err != nil {
		return err
	}
	if err := linked(ctx, rdb); err != nil {
		return err
	}
	return c.each(c.nodes, func(_ int, other *Server) error {
		rdb := other.connect()
		defer func() { _ = rdb.Close() }()
		return until(ctx, func() (bool, error) {
			nodes, err := rdb.ClusterNodes(ctx).Result()
			return strings.Count(nodes, "slave ") == len(c.nodes)-c.masters, err
		})
	})
}

// linked returns when a replica has the data of its master.
func linked(ctx context.Context, rdb *redis.Client) error {
	return until(ctx, func() (bool, error) {
		info, err := rdb.Info(ctx, "replication").Result()
		return strings.Contains(info, "role:slave") && strings.Contains(info, "master_link_status:up"), err
	})
}

// until polls ready, since servers do not report when they are ready.
func until(ctx context.Context, ready func() (bool, error)) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := ready()
		if ok && err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("a server is not ready after %v: %w", Patience, errors.Join(context.Cause(ctx), err))
		}
	}
}
