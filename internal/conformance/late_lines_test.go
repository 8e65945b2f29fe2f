package conformance

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/twemproxy"
)

// A lateLine is a topology with a proxy before each of its servers, which holds
// what one client sends.
type lateLine struct {
	held   func(t *testing.T) redis.UniversalClient // makes one
	free   redis.UniversalClient
	proxy  func(key string) *redistest.Proxy  // on the way of held to a key
	server func(key string) *redistest.Server // that has the key
}

// impatient makes a client give up a reply soon, and try again.
const impatient = 300 * time.Millisecond

var lateLines = map[string]func(t *testing.T, dial dialer) lateLine{
	"standalone": func(t *testing.T, dial dialer) lateLine {
		server := redistest.Start(t)
		proxy := redistest.NewProxy(t, server.Addr())
		return lateLine{
			held: func(*testing.T) redis.UniversalClient {
				return server.Client(func(o *redis.Options) {
					o.Addr, o.Dialer, o.ReadTimeout, o.MaxRetries = proxy.Addr(), dial, impatient, 1
				})
			},
			free:   server.Client(nil),
			proxy:  func(string) *redistest.Proxy { return proxy },
			server: func(string) *redistest.Server { return server },
		}
	},
	"Cluster": func(t *testing.T, dial dialer) lateLine {
		cluster := redistest.StartCluster(t, 3)
		proxies := map[string]*redistest.Proxy{}
		for _, node := range cluster.Nodes() {
			proxies[node.Addr()] = redistest.NewProxy(t, node.Addr())
		}
		return lateLine{
			held: func(*testing.T) redis.UniversalClient {
				return cluster.Client(&redis.ClusterOptions{
					ReadTimeout: impatient, MaxRetries: 1,
					Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
						return dial(ctx, network, proxies[addr].Addr())
					},
				})
			},
			free:   cluster.Client(nil),
			proxy:  func(key string) *redistest.Proxy { return proxies[cluster.Owner(key).Addr()] },
			server: cluster.Owner,
		}
	},
	"twemproxy": func(t *testing.T, dial dialer) lateLine {
		server := redistest.Start(t)
		free := redistest.StartTwemproxy(t, 0, server.Addr())
		proxy := redistest.NewProxy(t, free.Options().Addr)
		return lateLine{
			held: func(t *testing.T) redis.UniversalClient {
				return closed(t, twemproxy.NewClient(&redis.Options{
					Addr: proxy.Addr(), Dialer: dial, ReadTimeout: impatient, MaxRetries: 1,
				}))
			},
			free:   free,
			proxy:  func(string) *redistest.Proxy { return proxy },
			server: func(string) *redistest.Server { return server },
		}
	},
	"Sentinel": func(t *testing.T, dial dialer) lateLine {
		sentinel := redistest.StartSentinel(t)
		sentinel.Keep(true)
		master := sentinel.Master()
		proxy := redistest.NewProxy(t, master.Addr())
		return lateLine{
			held: func(*testing.T) redis.UniversalClient {
				return sentinel.Client(&redis.FailoverOptions{
					ReadTimeout: impatient, MaxRetries: 1,
					Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
						if addr == master.Addr() {
							addr = proxy.Addr()
						}
						return dial(ctx, network, addr)
					},
				})
			},
			free:   sentinel.Client(nil),
			proxy:  func(string) *redistest.Proxy { return proxy },
			server: func(string) *redistest.Server { return master },
		}
	},
	"Ring": func(t *testing.T, dial dialer) lateLine {
		servers := []*redistest.Server{redistest.Start(t), redistest.Start(t)}
		proxies := map[string]*redistest.Proxy{}
		for _, s := range servers {
			proxies[s.Addr()] = redistest.NewProxy(t, s.Addr())
		}
		free := redistest.Ring(t, nil, servers...)
		owner := func(key string) *redistest.Server {
			ctx := t.Context()
			require.NoError(t, free.Set(ctx, key, "", 0).Err())
			defer func() { require.NoError(t, free.Del(ctx, key).Err()) }()
			i := slices.IndexFunc(servers, func(s *redistest.Server) bool { return s.Client(nil).Exists(ctx, key).Val() == 1 })
			return servers[i]
		}
		return lateLine{
			held: func(t *testing.T) redis.UniversalClient {
				return redistest.Ring(t, &redis.RingOptions{
					ReadTimeout: impatient, MaxRetries: 1,
					Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
						return dial(ctx, network, proxies[addr].Addr())
					},
				}, servers...)
			},
			free:   free,
			proxy:  func(key string) *redistest.Proxy { return proxies[owner(key).Addr()] },
			server: owner,
		}
	},
	"AutoPipeline": func(t *testing.T, dial dialer) lateLine {
		server := redistest.Start(t)
		proxy := redistest.NewProxy(t, server.Addr())
		return lateLine{
			held: func(t *testing.T) redis.UniversalClient {
				auto, err := server.Client(func(o *redis.Options) {
					o.Addr, o.Dialer, o.ReadTimeout, o.MaxRetries = proxy.Addr(), dial, impatient, 1
				}).AutoPipeline()
				require.NoError(t, err)
				t.Cleanup(func() { _ = auto.Close() })
				return auto
			},
			free:   server.Client(nil),
			proxy:  func(string) *redistest.Proxy { return proxy },
			server: func(string) *redistest.Server { return server },
		}
	},
	// As behind a balancer: what the first proxy holds is sent again by way of the second.
	"two twemproxies": func(t *testing.T, dial dialer) lateLine {
		server := redistest.Start(t)
		free, second := redistest.StartTwemproxy(t, 0, server.Addr()), redistest.StartTwemproxy(t, 0, server.Addr())
		proxy := redistest.NewProxy(t, free.Options().Addr)
		return lateLine{
			held: func(t *testing.T) redis.UniversalClient {
				return closed(t, twemproxy.NewClient(&redis.Options{
					Addr: "balancer:6379", ReadTimeout: impatient, MaxRetries: 1,
					Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
						if proxy.Caught() > 0 {
							return dial(ctx, network, second.Options().Addr)
						}
						return dial(ctx, network, proxy.Addr())
					},
				}))
			},
			free:   free,
			proxy:  func(string) *redistest.Proxy { return proxy },
			server: func(string) *redistest.Server { return server },
		}
	},
}
