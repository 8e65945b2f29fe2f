package redistest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// slots is how many a Redis Cluster has.
const slots = 16384

// Cluster is a Redis Cluster of masters without replicas, of which each has an
// equal share of the slots.
type Cluster struct {
	t     testing.TB
	nodes []*Server
}

// StartCluster runs a cluster for one test and returns when every node knows the
// others and serves, which takes Redis some seconds. Its nodes are stopped when
// the test ends. The test is skipped where redis-server is missing; see [Binary].
func StartCluster(t testing.TB, masters int) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	for range masters {
		c.nodes = append(c.nodes, Start(t, "--cluster-enabled", "yes"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// Side by side, for each waits for the others.
	errs := make([]error, masters)
	var wg sync.WaitGroup
	for i, node := range c.nodes {
		wg.Go(func() { errs[i] = c.join(ctx, i, node) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("redistest: %v", err)
	}
	return c
}

// Addrs returns the host and port of each node.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, len(c.nodes))
	for i, node := range c.nodes {
		addrs[i] = node.Addr()
	}
	return addrs
}

// Client returns a client of the cluster, closed when the test ends. Of opts,
// which may be nil, the Addrs are those of the cluster.
func (c *Cluster) Client(opts *redis.ClusterOptions) *redis.ClusterClient {
	var o redis.ClusterOptions
	if opts != nil {
		o = *opts
	}
	o.Addrs = c.Addrs()
	rdb := redis.NewClusterClient(&o)
	c.t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// join makes node, the ith, one of the cluster, and returns when it serves.
func (c *Cluster) join(ctx context.Context, i int, node *Server) error {
	rdb := redis.NewClient(&redis.Options{Addr: node.Addr()})
	defer func() { _ = rdb.Close() }()
	// Epochs differ from the start, or the nodes would first have to agree on them.
	if err := rdb.Do(ctx, "cluster", "set-config-epoch", i+1).Err(); err != nil {
		return err
	}
	// Which go-redis sends as ADDSLOTS, for the sake of Redis 6.2.
	first, end := i*slots/len(c.nodes), (i+1)*slots/len(c.nodes)
	if err := rdb.ClusterAddSlotsRange(ctx, first, end-1).Err(); err != nil {
		return err
	}
	for _, other := range c.nodes {
		if other == node {
			continue
		}
		if err := rdb.ClusterMeet(ctx, "127.0.0.1", fmt.Sprint(other.port)).Err(); err != nil {
			return err
		}
	}
	// Nodes tell of nothing when they are ready, so they are asked again and again.
	known := fmt.Sprintf("cluster_known_nodes:%d\r\n", len(c.nodes))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		info, err := rdb.ClusterInfo(ctx).Result()
		switch {
		case err != nil:
			return err
		case strings.Contains(info, "cluster_state:ok\r\n") && strings.Contains(info, known):
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve after %v:\n%s", node.Addr(), patience, info)
		}
	}
}
