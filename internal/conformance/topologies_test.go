package conformance

import (
	"bytes"
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/sentinel"
	"github.com/cachex-go/cachex/twemproxy"
)

// A topology is one way in which Redis is run, or in which go-redis speaks to it.
type topology struct {
	name  string
	setup string // what it is here, for the table

	// start starts it, for as long as the test runs, and returns what makes clients.
	// The second client of a pair is another process's, so to speak.
	start func(t *testing.T) func(t testing.TB) redis.UniversalClient

	clear  string // what Clear says, if it does not work
	prefix string // of all keys
}

const hidden = "Clear has to reach every master, and the client hides them"

var topologies = []topology{{
	name: "standalone", setup: "`redis.NewClient`",
	start: func(t *testing.T) func(testing.TB) redis.UniversalClient {
		server := redistest.Start(t)
		return func(testing.TB) redis.UniversalClient { return server.Client(nil) }
	},
}, {
	name: "Sentinel", setup: "`redis.NewFailoverClient`, and `sentinel.NewClient`; a master and a replica",
	start: func(t *testing.T) func(testing.TB) redis.UniversalClient {
		servers := redistest.StartSentinel(t)
		servers.Keep(true)
		n := 0
		return func(t testing.TB) redis.UniversalClient {
			if n++; n%2 == 1 {
				return servers.Client(nil)
			}
			rdb, err := sentinel.NewClient(&redis.FailoverOptions{
				MasterName: redistest.MasterName, SentinelAddrs: servers.Addrs(), ReadTimeout: patience,
			})
			require.NoError(t, err)
			return closed(t, rdb)
		}
	},
}, {
	name: "Cluster", setup: "`redis.NewClusterClient`; 3 masters, 3 replicas",
	start: func(t *testing.T) func(testing.TB) redis.UniversalClient {
		cluster := redistest.StartCluster(t, 3, redistest.WithReplicas(hour))
		return func(testing.TB) redis.UniversalClient { return cluster.Client(nil) }
	},
}, {
	name: "Ring", setup: "`redis.NewRing` that never drops a shard; 2 servers",
	start: func(t *testing.T) func(testing.TB) redis.UniversalClient {
		a, b := redistest.Start(t), redistest.Start(t)
		return func(t testing.TB) redis.UniversalClient { return redistest.Ring(t, nil, a, b) }
	},
}, {
	name: "twemproxy", setup: "`twemproxy.NewClient`; nutcracker 0.5.0 before 2 servers",
	clear: "Clear needs SCAN, which some proxies and ACLs refuse",
	start: func(t *testing.T) func(testing.TB) redis.UniversalClient {
		first := redistest.StartTwemproxy(t, 0, redistest.Start(t).Addr(), redistest.Start(t).Addr())
		// The client refuses what the proxy does not know. The other one does not, so
		// that what cachex sends is seen on the wire.
		heard := &wiretap{names: map[string]bool{}}
		t.Cleanup(func() {
			names := heard.all()
			require.Greater(t, len(names), 3)
			for _, name := range names {
				require.True(t, twemproxy.Knows(name), "%s was sent, on which twemproxy hangs up", name)
			}
		})
		n := 0
		var mu sync.Mutex
		return func(t testing.TB) redis.UniversalClient {
			o := &redis.Options{Addr: first.Options().Addr, Dialer: heard.dial, ReadTimeout: patience}
			mu.Lock()
			defer mu.Unlock()
			if n++; n%2 == 1 {
				return closed(t, twemproxy.NewClient(o))
			}
			o.Dialer = twemproxy.Dialer(heard.dial)
			return closed(t, redis.NewClient(o))
		}
	},
}, {
	name: "AutoPipeline", setup: "`AutoPipeline()` of a client of one server",
	start: func(t *testing.T) func(testing.TB) redis.UniversalClient {
		server := redistest.Start(t)
		return func(t testing.TB) redis.UniversalClient {
			auto, err := server.Client(nil).AutoPipeline()
			require.NoError(t, err)
			t.Cleanup(func() { _ = auto.Close() })
			return auto
		}
	},
}, {
	name: "AutoPipeline of a Cluster", setup: "`AutoPipeline()` of a `ClusterClient`; 3 masters", clear: hidden,
	start: func(t *testing.T) func(testing.TB) redis.UniversalClient {
		cluster := redistest.StartCluster(t, 3)
		return func(t testing.TB) redis.UniversalClient {
			auto, err := cluster.Client(nil).AutoPipeline()
			require.NoError(t, err)
			t.Cleanup(func() { _ = auto.Close() })
			return auto
		}
	},
}, {
	name: "embedded", setup: "package `cachextest`",
	start: func(t *testing.T) func(testing.TB) redis.UniversalClient {
		first := redistest.InMemory(t)
		return func(t testing.TB) redis.UniversalClient {
			o := *first.Options()
			o.ReadTimeout, o.PushNotificationProcessor = patience, nil
			return closed(t, redis.NewClient(&o))
		}
	},
}}

func closed(t testing.TB, rdb *redis.Client) *redis.Client {
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// A wiretap hears the names of the commands that are sent on connections.
type wiretap struct {
	mu    sync.Mutex
	names map[string]bool // guarded by mu
}

func (w *wiretap) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for name := range w.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (w *wiretap) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &tapped{Conn: conn, w: w}, err
}

type tapped struct {
	net.Conn
	w    *wiretap
	rest []byte // of a command that was not written to its end
}

// Write implements net.Conn.
func (c *tapped) Write(b []byte) (int, error) {
	c.rest = append(c.rest, b...)
	for {
		name, size := first(c.rest)
		if size == 0 {
			break
		}
		c.w.mu.Lock()
		c.w.names[name] = true
		c.w.mu.Unlock()
		c.rest = c.rest[size:]
	}
	return c.Conn.Write(b)
}

// first returns the name and the size of the first command of b, 0 if that is not
// whole.
func first(b []byte) (name string, size int) {
	rest := b
	number := func() int {
		line, after, ok := bytes.Cut(rest, []byte("\r\n"))
		if !ok {
			return -1
		}
		n, err := strconv.Atoi(string(line[1:]))
		if err != nil {
			panic(err) // this is not what go-redis writes
		}
		rest = after
		return n
	}
	args := number()
	for i := range args {
		n := number()
		if n < 0 || len(rest) < n+2 {
			return "", 0
		}
		if i == 0 {
			name = strings.ToLower(string(rest[:n]))
		}
		rest = rest[n+2:]
	}
	if args < 0 {
		return "", 0
	}
	return name, len(b) - len(rest)
}
