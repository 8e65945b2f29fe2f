package cachextest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/redistest"
)

// Server is an embedded Redis that shows which commands arrive, and that fails,
// delays or holds them. It is safe for concurrent use.
type Server struct {
	memory *redistest.Memory
	trips  redistest.Roadside

	mu       sync.Mutex
	clients  []*redis.Client // guarded by mu; closed by Close
	commands [][]string      // guarded by mu
	before   int             // guarded by mu: round trips until Reset
	failing  error           // guarded by mu; nil if commands are executed
	hung     chan struct{}   // guarded by mu; nil if the server answers; closed by resume
	held     []*Held         // guarded by mu: holds that no command has met yet
	releases []func()        // guarded by mu: of all holds and hangs
	closed   bool            // guarded by mu
}

// Start starts a server that only this test uses. When the test ends, the
// server is stopped and its clients are closed. The caches must be closed
// before. If the server cannot start, Start fails the test.
func Start(t testing.TB) *Server {
	t.Helper()
	s, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Open starts a server for a program that is not a test, such as a demo. The
// caller must call Close.
func Open() (*Server, error) {
	memory, err := redistest.OpenMemory()
	if err != nil {
		return nil, fmt.Errorf("cachex: cachextest: %w", err)
	}
	s := &Server{memory: memory}
	memory.Intercept(s.intercept)
	return s, nil
}

// Close closes the clients that Client returned, and stops the server. It first
// releases the commands held by Hold and Hang. A second call does nothing.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	clients, releases := s.clients, s.releases
	s.clients, s.releases = nil, nil
	s.mu.Unlock()
	for _, release := range releases {
		release()
	}
	for _, rdb := range clients {
		_ = rdb.Close() // an error says that the test has closed it
	}
	s.memory.Close()
}

// Client returns a new client of the server, as one more process would have.
// Close closes it.
func (s *Server) Client() *redis.Client { return s.ClientWith(nil) }

// ClientWith is like Client, but configure may first change the options, for
// example to shorten a timeout. It must not change the Dialer. If configure is
// nil, the options stay unchanged.
func (s *Server) ClientWith(configure func(*redis.Options)) *redis.Client {
	o := s.memory.Options()
	o.Dialer = s.trips.Through(s.memory.Dial)
	if configure != nil {
		configure(o)
	}
	rdb := redis.NewClient(o)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = append(s.clients, rdb)
	return rdb
}

// Advance lets d pass: keys expire, values turn stale, leases and back-offs
// end, and timers of the program fire. It takes no real time. It works only in
// a bubble of testing/synctest, where all clocks are one. Elsewhere it panics
// and says so:
//
//	synctest.Test(t, func(t *testing.T) {
//		server := cachextest.Start(t)
//		…
//		server.Advance(time.Hour)
//	})
//
// Advance returns when every goroutine of the bubble waits. So all background
// work that was due has run.
func (s *Server) Advance(d time.Duration) {
	if !inBubble() {
		panic("cachex: cachextest: Advance needs synctest.Test around the test: " +
			"outside of a bubble the server's clock could move, and the program's could not")
	}
	time.Sleep(d)
	synctest.Wait()
}

// inBubble reports whether the caller runs in a bubble of testing/synctest.
func inBubble() bool {
	return guard.Call(wait, func() error { synctest.Wait(); return nil }) == nil // Wait panics outside of one
}

var wait = guard.Named("synctest.Wait")

// Commands returns the commands that have arrived since the start, or since
// Reset, in order. Each is its name in upper case and its arguments. It omits
// commands within scripts, and the commands with which go-redis opens a
// connection.
func (s *Server) Commands() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

// CommandsOf returns the commands of Commands that have a name. Case is
// ignored.
func (s *Server) CommandsOf(name string) [][]string {
	return slices.DeleteFunc(s.Commands(), func(c []string) bool { return !strings.EqualFold(c[0], name) })
}

// RoundTrips returns how often the clients of the server have sent commands and
// waited for replies, since the start, or since Reset. A pipeline is one round
// trip.
func (s *Server) RoundTrips() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trips.Trips() - s.before
}

// Reset makes Commands and RoundTrips start anew.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands, s.before = nil, s.trips.Trips()
}

// Fail makes the server answer every command with err and execute none, until
// Fail(nil). The text of err is the reply, as Redis sends it:
//
//	server.Fail(errors.New("OOM command not allowed when used memory > 'maxmemory'."))
func (s *Server) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = err
}

// Delay makes every reply arrive d later. Delay(0) ends the delay.
func (s *Server) Delay(d time.Duration) { s.memory.Delay(d) }

// Hang makes the server accept commands without executing or answering them,
// like a stopped process, until resume is called. Then the server executes
// them.
func (s *Server) Hang() (resume func()) {
	hung := make(chan struct{})
	resume = sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.hung == hung {
			s.hung = nil
		}
		close(hung)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hung = hung
	s.releases = append(s.releases, resume)
	return resume
}

// Stop cuts all connections and refuses new ones until start is called. The
// server keeps its data.
func (s *Server) Stop() (start func()) {
	s.memory.Refuse(true)
	s.memory.Cut()
	return func() { s.memory.Refuse(false) }
}

// Cut cuts all connections. Replies in flight are lost. New connections are
// accepted.
func (s *Server) Cut() { s.memory.Cut() }

// Restart cuts all connections and removes all keys and scripts, like the
// restart of a Redis without persistence.
func (s *Server) Restart() {
	s.memory.Cut()
	if err := s.memory.Empty(context.Background()); err != nil {
		panic(fmt.Errorf("cachex: cachextest: restart: %w", err))
	}
}

// Evict removes a key, as Redis does if memory is short, and reports whether it
// existed. Key of a cache returns the key of an entry.
func (s *Server) Evict(key string) bool { return s.memory.Evict(key) }

// Held is a command that Hold has held or will hold.
type Held struct {
	name    string
	arrived chan struct{}
	release chan struct{}
	free    func() // closes release, once
}

// Hold holds the next command with a name before it is executed. Case is
// ignored:
//
//	get := server.Hold("get")
//	go reader()
//	<-get.Arrived()
//	// Write the key here, between the arrival of the GET and its execution.
//	get.Release()
func (s *Server) Hold(name string) *Held {
	h := &Held{name: name, arrived: make(chan struct{}), release: make(chan struct{})}
	h.free = sync.OnceFunc(func() { close(h.release) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = append(s.held, h)
	s.releases = append(s.releases, h.free)
	return h
}

// Arrived returns a channel that is closed when the command has arrived.
func (h *Held) Arrived() <-chan struct{} { return h.arrived }

// Release lets the server execute the command. A second call does nothing.
func (h *Held) Release() { h.free() }

// intercept sees each command before the server executes it.
func (s *Server) intercept(name string, args []string) error {
	if opens(name, args) {
		return nil
	}
	s.mu.Lock()
	s.commands = append(s.commands, append([]string{name}, args...))
	hung := s.hung
	var held *Held
	if i := slices.IndexFunc(s.held, func(h *Held) bool { return strings.EqualFold(h.name, name) }); i >= 0 && !s.closed {
		held = s.held[i]
		s.held = slices.Delete(s.held, i, i+1)
	}
	s.mu.Unlock()
	if held != nil {
		close(held.arrived)
		<-held.release
	}
	if hung != nil {
		<-hung
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failing
}

// opens reports whether go-redis sends the command to open a connection.
func opens(name string, args []string) bool {
	switch name {
	case "HELLO", "AUTH", "SELECT":
		return true
	case "CLIENT":
		return len(args) > 0 && (strings.EqualFold(args[0], "setinfo") || strings.EqualFold(args[0], "setname"))
	}
	return false
}
