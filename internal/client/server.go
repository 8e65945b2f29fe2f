package client

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Servers returns a function that names the server to which rdb sends the
// commands of a key. The function sends nothing. While the client knows no
// server, the name is [Unknown]. If rdb is a client of one server, or hides its
// servers, Servers returns nil.
func Servers(rdb redis.UniversalClient) func(key string) string {
	switch rdb := rdb.(type) {
	case *redis.Client:
		return nil
	case interface {
		MasterForKey(ctx context.Context, key string) (*redis.Client, error)
	}:
		return func(key string) string { return address(rdb.MasterForKey(over, key)) }
	case interface {
		GetShardClientForKey(key string) (*redis.Client, error)
	}:
		return func(key string) string { return address(rdb.GetShardClientForKey(key)) }
	}
	return nil
}

// Unknown names the only server, or all servers while the client knows of none.
const Unknown = ""

func address(node *redis.Client, err error) string {
	if err != nil {
		return Unknown
	}
	return node.Options().Addr
}

// over is an ended context. It makes a ClusterClient that has not yet seen its
// Cluster return an error instead of asking the Cluster.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
