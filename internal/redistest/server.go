package redistest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Server is a redis-server process on a port of the loopback interface. It
// persists nothing and allows the DEBUG command.
//
// Its methods may fail the test, so they must run in the test's own goroutine.
// Addr and Pid may run in any goroutine. No method may run at the same time as
// Restart.
type Server struct {
	t      testing.TB
	proc   *Process
	args   []string
	env    []string
	dir    string
	side   *side // of a Network; nil: the test's own namespace
	port   int
	shared bool // several tests use it, so no test may disturb it
}

// Start runs a redis-server for one test and returns when it accepts commands.
// The server is stopped when the test ends. The arguments are added to its
// command line, as in Start(t, "--maxmemory", "2mb"), and override the choices
// of this package. If redis-server is missing, the test is skipped; see
// [Binary].
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return StartWith(t, nil, args...)
}

// StartWith is Start with additional environment variables, as in "TZ=UTC".
func StartWith(t testing.TB, env []string, args ...string) *Server {
	t.Helper()
	return startOn(t, nil, env, args...)
}

// startOn is StartWith for a server on a side of a Network.
func startOn(t testing.TB, on *side, env []string, args ...string) *Server {
	t.Helper()
	Binary(t, "redis-server")
	s := &Server{t: t, args: args, env: env, dir: t.TempDir(), side: on}
	if err := s.start(); err != nil {
		t.Fatalf("redistest: %v", err)
	}
	s.proc.attend(t)
	return s
}

// Addr returns the host and port that the server listens on. A restart does not
// change it.
func (s *Server) Addr() string { return net.JoinHostPort(s.side.address(), strconv.Itoa(s.port)) }

// Pid returns the process id of the server. A restart changes it.
func (s *Server) Pid() int { return s.proc.Pid() }

// Client returns a client of the server, which is closed when the test ends. If
// configure is not nil, it may change the client's options first.
func (s *Server) Client(configure func(*redis.Options)) *redis.Client {
	opts := s.options()
	if configure != nil {
		configure(opts)
	}
	rdb := redis.NewClient(opts)
	// If the test itself has closed the client, the second Close returns a
	// harmless error.
	s.t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

func (s *Server) options() *redis.Options {
	return &redis.Options{Addr: s.Addr(), ReadTimeout: replyTimeout(), WriteTimeout: replyTimeout()}
}

// connect returns a client that the caller must close.
func (s *Server) connect() *redis.Client { return redis.NewClient(s.options()) }

// Kill ends the server as kill -9 does. Its data are lost.
func (s *Server) Kill() {
	s.t.Helper()
	s.mine()
	s.proc.Kill()
}

// Stop freezes the server with SIGSTOP: connections stay open, the kernel
// accepts new ones, and the server does not answer. Cont resumes it.
func (s *Server) Stop() {
	s.t.Helper()
	s.mine()
	s.proc.Stop()
}

// Cont resumes a stopped server with SIGCONT.
func (s *Server) Cont() {
	s.t.Helper()
	s.mine()
	s.proc.Cont()
}

// Restart kills the server and starts an empty one on the same port. It returns
// when the new server accepts commands.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	if err := s.start(); err != nil {
		s.t.Fatalf("redistest: %v", err)
	}
	s.proc.attend(s.t)
}

// CommandCount returns how many of the named commands the server has executed
// since it started, including calls from scripts. Without names it counts all
// commands except those that open a connection. It is the server's own count,
// so it is meaningful only on a server that the test does not share.
func (s *Server) CommandCount(names ...string) int64 {
	s.t.Helper()
	rdb := s.connect()
	defer func() { _ = rdb.Close() }()
	info, err := rdb.Info(context.Background(), "commandstats").Result()
	if err != nil {
		s.t.Fatalf("redistest: %v", err)
	}
	var total int64
	for line := range strings.Lines(info) {
		// cmdstat_config|get:calls=1,usec=9,…
		rest, ok := strings.CutPrefix(line, "cmdstat_")
		if !ok {
			continue
		}
		name, stats, _ := strings.Cut(rest, ":calls=")
		name, _, _ = strings.Cut(name, "|")
		calls, _, _ := strings.Cut(stats, ",")
		n, err := strconv.ParseInt(calls, 10, 64)
		if err != nil {
			s.t.Fatalf("redistest: unexpected line in INFO commandstats: %q", line)
		}
		if slices.Contains(names, name) || len(names) == 0 && !slices.Contains(housekeeping, name) {
			total += n
		}
	}
	return total
}

// housekeeping lists the commands that open connections, INFO, which
// CommandCount sends, and CONFIG, which Valkey 9 calls itself when it starts.
var housekeeping = []string{"hello", "auth", "client", "select", "readonly", "command", "cluster", "info", "config"}

// start runs the process and waits until it is ready. If the server has no port
// yet, start chooses one.
func (s *Server) start() error {
	const attempts = 20
	fixed := s.port != 0
	for attempt := 1; ; attempt++ {
		if !fixed {
			port, err := freePort(s.t)
			if err != nil {
				return err
			}
			s.port = port
		}
		args := []string{
			"--port", strconv.Itoa(s.port), "--bind", s.side.address(), "--dir", s.dir,
			"--save", "", "--appendonly", "no",
		}
		if hasDebugOption() {
			args = append(args, "--enable-debug-command", "yes")
		}
		if s.side != nil {
			args = append(args, "--protected-mode", "no")
		}
		command := s.side.enter(append(append([]string{"redis-server"}, args...), s.args...))
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Env = append(os.Environ(), s.env...)
		p, err := spawn(cmd)
		if err != nil {
			return err
		}
		// The process itself says that it is ready. A PING could be answered by
		// another test's server that took the same port first.
		if _, err = p.awaitLine("Ready to accept connections"); err == nil {
			s.proc = p
			return nil
		}
		p.Kill()
		if fixed || attempt == attempts || !strings.Contains(p.Output(), "Address already in use") {
			return err
		}
	}
}

// mine fails a test that would disturb a shared server.
func (s *Server) mine() {
	s.t.Helper()
	if s.shared {
		s.t.Fatal("redistest: a test must not hurt the shared server: use Start")
	}
}

// hasDebugOption reports whether the server knows --enable-debug-command. Redis
// before 7.0 allows DEBUG anyway and refuses the option.
var hasDebugOption = sync.OnceValue(func() bool {
	// Redis server v=7.0.15 sha=…
	out, err := exec.Command("redis-server", "--version").Output()
	_, version, found := strings.Cut(string(out), " v=")
	major, _, _ := strings.Cut(version, ".")
	n, convErr := strconv.Atoi(major)
	return err == nil && found && convErr == nil && n >= 7
})
