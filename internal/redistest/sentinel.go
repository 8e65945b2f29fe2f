package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// MasterName is what a Sentinel of this package calls its master.
const MasterName = "cachex"

// Sentinel is a Redis Sentinel that watches a master and its replica. If the master
// is silent for half a second, the replica takes its place.
//
// Its methods may fail the test and so belong in the test's own goroutine.
type Sentinel struct {
	t       testing.TB
	servers []*Server
	addr    string
}

// StartSentinel runs a master, a replica and a Sentinel for one test, and returns
// when either could fail. All are stopped when the test ends. The test is skipped
// where redis-server is missing; see [Binary].
func StartSentinel(t testing.TB) *Sentinel {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	master := Start(t, "--repl-diskless-sync-delay", "0")
	replica := Start(t, "--repl-diskless-sync-delay", "0", "--replicaof", fmt.Sprintf("127.0.0.1 %d", master.port))
	if err := linked(ctx, replica.Client(nil)); err != nil {
		t.Fatalf("redistest: %v", err)
	}
	// Only now: it asks the master for its replicas when it begins, and then once in
	// ten seconds.
	s := &Sentinel{t: t, servers: []*Server{master, replica}}
	if err := s.start(); err != nil {
		t.Fatalf("redistest: %v", err)
	}
	rdb := s.ask()
	err := until(ctx, func() (bool, error) {
		replicas, err := rdb.Replicas(ctx, MasterName).Result()
		return len(replicas) == 1 && replicas[0]["flags"] == "slave" && replicas[0]["master-link-status"] == "ok", err
	})
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	return s
}

// Addr returns the host and port of the Sentinel itself.
func (s *Sentinel) Addr() string { return s.addr }

// Client returns a client of the master, whichever that is, closed when the test
// ends. Of opts, which may be nil, the MasterName and the SentinelAddrs are set.
func (s *Sentinel) Client(opts *redis.FailoverOptions) *redis.Client {
	var o redis.FailoverOptions
	if opts != nil {
		o = *opts
	}
	o.MasterName, o.SentinelAddrs = MasterName, []string{s.addr}
	rdb := redis.NewFailoverClient(&o)
	s.t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// Master returns the server that the Sentinel takes for the master.
func (s *Sentinel) Master() *Server {
	s.t.Helper()
	addr, err := s.ask().GetMasterAddrByName(s.t.Context(), MasterName).Result()
	if err != nil {
		s.t.Fatalf("redistest: %v", err)
	}
	at := slices.IndexFunc(s.servers, func(server *Server) bool { return server.Addr() == net.JoinHostPort(addr[0], addr[1]) })
	if at < 0 {
		s.t.Fatalf("redistest: the Sentinel knows a foreign master, %v", addr)
	}
	return s.servers[at]
}

// Replica returns the other server.
func (s *Sentinel) Replica() *Server {
	s.t.Helper()
	if s.Master() == s.servers[0] {
		return s.servers[1]
	}
	return s.servers[0]
}

// Failover has the replica take the place of a master that lives, and returns when
// it has.
func (s *Sentinel) Failover() {
	s.t.Helper()
	before := s.Master()
	if err := s.ask().Failover(s.t.Context(), MasterName).Err(); err != nil {
		s.t.Fatalf("redistest: %v", err)
	}
	s.AwaitMaster(before)
}

// AwaitMaster returns when the Sentinel has another master than before, and that
// says so itself.
func (s *Sentinel) AwaitMaster(before *Server) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := until(ctx, func() (bool, error) {
		master := s.Master()
		if master == before {
			return false, nil
		}
		info, err := master.Client(nil).Info(ctx, "replication").Result()
		return strings.Contains(info, "role:master"), err
	})
	if err != nil {
		s.t.Fatalf("redistest: %v", err)
	}
}

func (s *Sentinel) ask() *redis.SentinelClient {
	rdb := redis.NewSentinelClient(&redis.Options{Addr: s.addr})
	s.t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// start runs the Sentinel on a port that is free.
func (s *Sentinel) start() error {
	const attempts = 20
	const config = `port %d
bind 127.0.0.1
dir %s
sentinel monitor %[3]s 127.0.0.1 %[4]d 1
sentinel down-after-milliseconds %[3]s %[5]d
sentinel failover-timeout %[3]s 5000
`
	for attempt := 1; ; attempt++ {
		port, err := freePort(s.t)
		if err != nil {
			return err
		}
		dir := s.t.TempDir()
		file := filepath.Join(dir, "sentinel.conf")
		text := fmt.Sprintf(config, port, dir, MasterName, s.servers[0].port, (500 * time.Millisecond).Milliseconds())
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
		p, err := spawn(exec.Command("redis-server", file, "--sentinel"))
		if err != nil {
			return err
		}
		if _, err = p.awaitLine("+monitor master"); err == nil {
			p.attend(s.t)
			s.addr = fmt.Sprintf("127.0.0.1:%d", port)
			return nil
		}
		p.Kill()
		if attempt == attempts || !strings.Contains(p.Output(), "Address already in use") {
			return err
		}
	}
}
