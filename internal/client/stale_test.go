package client

import (
	"context"
	"net"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestStaleReads_NamesTheOptionAsFarAsTheClientTells(t *testing.T) {
	t.Parallel()
	refuse := func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
	single := func(set func(*redis.Options)) redis.UniversalClient {
		o := &redis.Options{Addr: "127.0.0.1:1", Dialer: refuse}
		set(o)
		rdb := redis.NewClient(o)
		t.Cleanup(func() { _ = rdb.Close() })
		return rdb
	}
	cluster := func(set func(*redis.ClusterOptions)) redis.UniversalClient {
		o := &redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, Dialer: refuse}
		set(o)
		rdb := redis.NewClusterClient(o)
		t.Cleanup(func() { _ = rdb.Close() })
		return rdb
	}
	type embeds struct{ *redis.ClusterClient }
	type hides struct{ redis.UniversalClient }
	random := cluster(func(o *redis.ClusterOptions) { o.RouteRandomly = true })
	for _, row := range []struct {
		name, want string
		rdb        redis.UniversalClient
	}{
		{"a client as it comes", "", single(func(*redis.Options) {})},
		{"a cache in the client", "ClientSideCacheConfig", single(func(o *redis.Options) { o.ClientSideCacheConfig = &redis.ClientSideCacheConfig{} })},
		{"a Cluster as it comes", "", cluster(func(*redis.ClusterOptions) {})},
		{"replicas", "ReadOnly", cluster(func(o *redis.ClusterOptions) { o.ReadOnly = true })},
		{"the nearest node", "RouteByLatency", cluster(func(o *redis.ClusterOptions) { o.RouteByLatency = true })},
		{"any node", "RouteRandomly", random},
		{"a wrapper that embeds the client", "RouteRandomly", embeds{random.(*redis.ClusterClient)}},
		{"a wrapper that embeds the interface", "", hides{random}},
	} {
		require.Equal(t, row.want, StaleReads(row.rdb), row.name)
	}
}
