package circuit

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
)

// servers returns what names the server to which rdb sends the commands of a key.
// It sends nothing.
func servers(rdb redis.UniversalClient) func(key string) string {
	switch rdb := rdb.(type) {
	case interface {
		MasterForKey(ctx context.Context, key string) (*redis.Client, error)
	}:
		return func(key string) string { return address(rdb.MasterForKey(over, key)) }
	case interface {
		GetShardClientForKey(key string) (*redis.Client, error)
	}:
		return func(key string) string { return address(rdb.GetShardClientForKey(key)) }
	}
	if client.TopologyOf(rdb) == client.Cluster {
		return func(key string) string { return ranges[slot(key)/(slots/ofCluster)] }
	}
	return func(string) string { return unknown }
}

// unknown names the one server there is; or all of them, while the client knows of
// none.
const unknown = ""

func address(node *redis.Client, err error) string {
	if err != nil {
		return unknown
	}
	return node.Options().Addr
}

// over has a ClusterClient that has not yet seen its Cluster say so, and not go and
// look.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// ofCluster is how many circuits a Cluster has whose client does not tell its
// masters, each for a range of slots.
const ofCluster = 64

var ranges = func() (names [ofCluster]string) {
	for i := range names {
		const each = slots / ofCluster
		names[i] = fmt.Sprintf("slots %d to %d", i*each, (i+1)*each-1)
	}
	return names
}()
