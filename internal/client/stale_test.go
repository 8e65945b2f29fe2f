package client

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

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

func TestCheckShards_AcceptsARingThatDropsNoShard(t *testing.T) {
	t.Parallel()
	ring := func(frequency time.Duration, fn func(context.Context, *redis.Client) bool) *redis.Ring {
		rdb := redis.NewRing(&redis.RingOptions{
			Addrs: map[string]string{"a": nowhere}, HeartbeatFrequency: frequency, HeartbeatFn: fn,
		})
		t.Cleanup(func() { _ = rdb.Close() })
		return rdb
	}
	type embeds struct{ *redis.Ring }
	type hides struct{ redis.UniversalClient }
	type shows struct {
		redis.UniversalClient
		options
	}
	drops, keeps := ring(time.Hour, nil), ring(Never, nil)
	one := redis.NewClient(&redis.Options{Addr: nowhere})
	t.Cleanup(func() { _ = one.Close() })
	var none *redis.Ring
	for _, row := range []struct {
		name string
		want error
		rdb  redis.UniversalClient
	}{
		{"no client", nil, none},
		{"a Ring as it comes", errDrops, ring(0, nil)},
		{"a heartbeat once an hour", errDrops, drops},
		{"a heartbeat that no one can look into", errDrops, ring(0, func(context.Context, *redis.Client) bool { return true })},
		{"no heartbeat", nil, keeps},
		{"a wrapper that embeds a Ring with heartbeats", errDrops, embeds{drops}},
		{"a wrapper that embeds a Ring without", nil, embeds{keeps}},
		{"a wrapper that embeds the interface", errHides, hides{keeps}},
		{"a wrapper that embeds the interface and shows the options", nil, shows{keeps, keeps.Options}},
		{"a wrapper that shows heartbeats", errDrops, shows{drops, drops.Options}},
		{"a wrapper of a client of one server", nil, hides{one}},
		{"a fake", nil, hides{}},
	} {
		require.Equal(t, row.want, CheckShards(row.rdb), row.name)
		require.Equal(t, row.want, errors.Unwrap(CheckReads(row.rdb, false, "Spec.Allow")), row.name)
		require.NoError(t, CheckReads(row.rdb, true, "Spec.Allow"), row.name)
	}
}

// options is a method Options.
type options func() *redis.RingOptions

func (o options) Options() *redis.RingOptions { return o() }
