package redistest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// MasterName is the name of the master in every Sentinel of this package.
const MasterName = "cachex"

// Sentinel is one or more Redis Sentinels that watch a master and its replicas.
// If the master is silent for some seconds, a replica takes its place.
//
// Its methods may fail the test, so they must run in the test's own goroutine.
type Sentinel struct {
	t       testing.TB
	servers []*Server
	addrs   []string // of the Sentinels
}

// StartSentinel runs a master, a replica and a Sentinel for one test. It
// returns when the Sentinel could replace the master by the replica. All are
// stopped when the test ends. If redis-server is missing, the test is skipped;
// see [Binary].
func StartSentinel(t testing.TB) *Sentinel {
	t.Helper()
	s := &Sentinel{t: t}
	s.run([]*side{nil, nil}, []*side{nil})
	return s
}

// StartSentinels is StartSentinel across a network. The master and one Sentinel
// are on one side, two replicas and two Sentinels on the other. The master
// accepts writes only while a replica follows it.
func StartSentinels(n *Network) *Sentinel {
	n.t.Helper()
	a, b := n.sides[0], n.sides[1]
	s := &Sentinel{t: n.t}
	s.run([]*side{a, b, b}, []*side{a, b, b}, "--min-replicas-to-write", "1", "--min-replicas-max-lag", "5")
	return s
}

// run starts the servers, the first of which is the master, and the Sentinels.
// It returns when each Sentinel knows all servers.
func (s *Sentinel) run(servers, sentinels []*side, args ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	args = append(args, "--repl-diskless-sync-delay", "0")
	for i, on := range servers {
		if i == 1 {
			args = append(args, "--replicaof", servers[0].address()+" "+strconv.Itoa(s.servers[0].port))
		}
		s.servers = append(s.servers, startOn(s.t, on, nil, args...))
	}
	for _, replica := range s.servers[1:] {
		if err := linked(ctx, replica.Client(nil)); err != nil {
			s.t.Fatalf("redistest: %v", err)
		}
	}
	// The Sentinels start last: a Sentinel asks the master for its replicas at
	// its start, and then once in ten seconds.
	for _, on := range sentinels {
		if err := s.start(on, len(sentinels)/2+1); err != nil {
			s.t.Fatalf("redistest: %v", err)
		}
	}
	for i := range s.addrs {
		rdb := s.ask(i)
		err := until(ctx, func() (bool, error) {
			replicas, err := rdb.Replicas(ctx, MasterName).Result()
			for _, r := range replicas {
				if r["flags"] != "slave" || r["master-link-status"] != "ok" {
					return false, err
				}
			}
			others, failed := rdb.Sentinels(ctx, MasterName).Result()
			return len(replicas) == len(servers)-1 && len(others) == len(sentinels)-1, errors.Join(err, failed)
		})
		if err != nil {
			s.t.Fatalf("redistest: %v", err)
		}
	}
}

// Addrs returns the host and port of each Sentinel.
func (s *Sentinel) Addrs() []string { return slices.Clone(s.addrs) }

// Servers returns the first master and its replicas.
func (s *Sentinel) Servers() []*Server { return slices.Clone(s.servers) }

// Client returns a client of the current master, which is closed when the test
// ends. opts may be nil. Client sets its MasterName, and its SentinelAddrs if
// they are empty.
func (s *Sentinel) Client(opts *redis.FailoverOptions) *redis.Client {
	var o redis.FailoverOptions
	if opts != nil {
		o = *opts
	}
	o.ReadTimeout, o.WriteTimeout = cmp.Or(o.ReadTimeout, replyTimeout()), cmp.Or(o.WriteTimeout, replyTimeout())
	o.MasterName = MasterName
	if o.SentinelAddrs == nil {
		o.SentinelAddrs = s.Addrs()
	}
	rdb := redis.NewFailoverClient(&o)
	s.t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// Master returns the master according to the last Sentinel.
func (s *Sentinel) Master() *Server {
	s.t.Helper()
	addr, err := s.ask(len(s.addrs)-1).GetMasterAddrByName(s.t.Context(), MasterName).Result()
	if err != nil {
		s.t.Fatalf("redistest: %v", err)
	}
	at := slices.IndexFunc(s.servers, func(server *Server) bool { return server.Addr() == net.JoinHostPort(addr[0], addr[1]) })
	if at < 0 {
		s.t.Fatalf("redistest: the Sentinel knows a foreign master, %v", addr)
	}
	return s.servers[at]
}

// Replica returns a server other than the master.
func (s *Sentinel) Replica() *Server {
	s.t.Helper()
	if s.Master() == s.servers[0] {
		return s.servers[1]
	}
	return s.servers[0]
}

// Keep makes the Sentinels keep the master, however long it is silent, or ends
// that. A busy machine may stop a server for longer than they wait, and no test
// should lose its master by accident. Failover works all the same.
func (s *Sentinel) Keep(keep bool) {
	s.t.Helper()
	silence := downAfter
	if keep {
		silence = time.Hour
	}
	for i := range s.addrs {
		err := s.ask(i).Set(s.t.Context(), MasterName, "down-after-milliseconds", strconv.FormatInt(silence.Milliseconds(), 10)).Err()
		if err != nil {
			s.t.Fatalf("redistest: %v", err)
		}
	}
}

// Failover makes the replica replace a live master, and returns when it has.
func (s *Sentinel) Failover() {
	s.t.Helper()
	before, rdb := s.Master(), s.ask(0)
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	// The Sentinel refuses if a busy machine has kept the replica from
	// answering it.
	if err := until(ctx, func() (bool, error) {
		err := rdb.Failover(ctx, MasterName).Err()
		if s.Master() != before {
			return true, nil
		}
		return err == nil, err
	}); err != nil {
		s.t.Fatalf("redistest: %v", err)
	}
	s.AwaitMaster(before)
}

// AwaitMaster returns when the Sentinel names a master other than before, and
// that server confirms its role.
func (s *Sentinel) AwaitMaster(before *Server) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience+tilt)
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

func (s *Sentinel) ask(i int) *redis.SentinelClient {
	// The test reaches every Sentinel, also in a network that it cuts.
	rdb := redis.NewSentinelClient(&redis.Options{Addr: s.addrs[i], ReadTimeout: Patience, WriteTimeout: Patience})
	s.t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// downAfter is how long a server is silent before a Sentinel takes it for dead.
// It exceeds the time for which a busy machine stops a server, so that no test
// loses its master by accident.
const downAfter = 5 * time.Second

// tilt is how long a Sentinel replaces no master after it has itself stood
// still for two seconds.
const tilt = 30 * time.Second

// start runs a Sentinel on a free port. quorum is the number of Sentinels that
// must agree that the master is down.
func (s *Sentinel) start(on *side, quorum int) error {
	const attempts = 20
	const config = `port %d
bind %s
protected-mode no
dir %s
sentinel monitor %[4]s %[5]s %[6]d %[7]d
sentinel down-after-milliseconds %[4]s %[8]d
sentinel failover-timeout %[4]s 5000
`
	for attempt := 1; ; attempt++ {
		port, err := freePort(s.t)
		if err != nil {
			return err
		}
		dir := s.t.TempDir()
		file := filepath.Join(dir, "sentinel.conf")
		text := fmt.Sprintf(config, port, on.address(), dir, MasterName, s.servers[0].side.address(), s.servers[0].port,
			quorum, downAfter.Milliseconds())
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
		command := on.enter([]string{"redis-server", file, "--sentinel"})
		p, err := spawn(exec.Command(command[0], command[1:]...))
		if err != nil {
			return err
		}
		if _, err = p.awaitLine("+monitor master"); err == nil {
			p.attend(s.t)
			s.addrs = append(s.addrs, net.JoinHostPort(on.address(), strconv.Itoa(port)))
			return nil
		}
		p.Kill()
		if attempt == attempts || !strings.Contains(p.Output(), "Address already in use") {
			return err
		}
	}
}
