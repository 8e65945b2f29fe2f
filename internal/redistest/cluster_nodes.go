package redistest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Add starts one more master without slots (see Move), and returns it when all
// other nodes know of it. The master is stopped when the test ends, or by
// Remove.
func (c *Cluster) Add() *Server {
	c.t.Helper()
	node := Start(c.t, c.args...)
	c.nodes = append(c.nodes, node)
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	err := c.join(ctx, node)
	if err == nil {
		known := fmt.Sprintf("cluster_known_nodes:%d\r\n", len(c.nodes))
		err = c.every(ctx, func(rdb *redis.Client) (bool, error) {
			info, err := rdb.ClusterInfo(ctx).Result()
			return strings.Contains(info, known), err
		})
	}
	if err != nil {
		c.t.Fatalf("redistest: %v", err)
	}
	return node
}

// NodeTimeout sets for how long a node is silent before the others take it for
// dead. So a test can make it short just before it kills a node.
func (c *Cluster) NodeTimeout(d time.Duration) {
	c.t.Helper()
	for _, node := range c.nodes {
		err := node.Client(nil).ConfigSet(c.t.Context(), "cluster-node-timeout", strconv.FormatInt(d.Milliseconds(), 10)).Err()
		if err != nil {
			c.t.Fatalf("redistest: %v", err)
		}
	}
}

// Remove makes the other nodes forget a master, which must have no slots, and
// kills it.
func (c *Cluster) Remove(node *Server) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	id, err := node.Client(nil).Do(ctx, "cluster", "myid").Text()
	if err != nil {
		c.t.Fatalf("redistest: %v", err)
	}
	c.nodes = slices.DeleteFunc(slices.Clone(c.nodes), func(other *Server) bool { return other == node })
	// A node that has forgotten it does not learn of it from the others for a
	// minute.
	for _, other := range c.nodes {
		if err := other.Client(nil).ClusterForget(ctx, id).Err(); err != nil {
			c.t.Fatalf("redistest: %v", err)
		}
	}
	node.Kill()
}

// agree returns when all nodes agree that the node with this id serves slot.
func (c *Cluster) agree(ctx context.Context, slot int, id string) error {
	return c.every(ctx, func(rdb *redis.Client) (bool, error) {
		ranges, err := rdb.Do(ctx, "cluster", "slots").Slice()
		return serves(ranges, slot, 2) == id, err
	})
}

// serves returns the host, port, or id of the master of slot from an answer to
// CLUSTER SLOTS. what is the index of that part.
func serves(ranges []any, slot, what int) string {
	for _, r := range ranges {
		r := r.([]any) // first, last, {host, port, id} of the master, and of others
		if r[0].(int64) <= int64(slot) && int64(slot) <= r[1].(int64) {
			return fmt.Sprint(r[2].([]any)[what])
		}
	}
	return ""
}

// every returns when each node is ready.
func (c *Cluster) every(ctx context.Context, ready func(rdb *redis.Client) (bool, error)) error {
	return c.each(c.nodes, func(_ int, node *Server) error {
		rdb := node.connect()
		defer func() { _ = rdb.Close() }()
		return until(ctx, func() (bool, error) { return ready(rdb) })
	})
}
