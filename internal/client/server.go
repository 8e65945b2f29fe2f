package client

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Servers returns what names the server to which rdb sends the commands of a key,
// and sends nothing. The name is [Unknown] as long as the client knows of no
// server. Servers returns nil if rdb is a client of one server, or does not tell.
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

// Unknown names the one server there is; or all of them, while the client knows of
// none.
const Unknown = ""

func address(node *redis.Client, err error) string {
	if err != nil {
		return Unknown
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
