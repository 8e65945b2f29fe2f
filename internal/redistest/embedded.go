package redistest

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Embedded is a Redis inside this process, on a port of the loopback interface.
//
// Unlike miniredis as it comes, its keys expire as time passes, and TIME, as
// clients and scripts see it, agrees with them. As in Redis, time stands still
// while a script runs and is counted in milliseconds. It is made for some
// thousands of keys: with more of them, its clock ticks less often.
//
// Its methods are safe for concurrent use.
type Embedded struct {
	server    *miniredis.Miniredis
	listener  net.Listener
	accepting sync.WaitGroup
	began     time.Time // the clock counts from here

	mu      sync.Mutex
	clients []*redis.Client // guarded by mu; closed by Close
	stopped bool            // guarded by mu; whether SetTime rules the clock
	next    time.Time       // guarded by mu; the clock is good until then
	cost    time.Duration   // guarded by mu; what it takes to set it
}

// NewEmbedded starts an embedded server for a program that is not a test. The
// caller must Close it.
func NewEmbedded() (*Embedded, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &Embedded{server: miniredis.NewMiniRedis(), listener: listener, began: time.Now()}
	e.server.SetTime(e.began)
	e.server.ClockTTL(true)
	if err := e.server.Start(); err != nil {
		_ = listener.Close()
		return nil, err
	}
	e.accepting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			e.server.Server().ServeConn(ticking{conn, e})
		}
	})
	return e, nil
}

// StartEmbedded starts an embedded server that is closed when the test ends.
func StartEmbedded(t testing.TB) *Embedded {
	t.Helper()
	e, err := NewEmbedded()
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	t.Cleanup(e.Close)
	return e
}

// Addr returns the host and port that the server listens on.
func (e *Embedded) Addr() string { return e.listener.Addr().String() }

// Client returns a client of the server, closed by Close. configure may change
// the client's options before it is made; nil changes nothing.
func (e *Embedded) Client(configure func(*redis.Options)) *redis.Client {
	opts := &redis.Options{Addr: e.Addr(), ReadTimeout: replyTimeout(), WriteTimeout: replyTimeout()}
	if configure != nil {
		configure(opts)
	}
	rdb := redis.NewClient(opts)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.clients = append(e.clients, rdb)
	return rdb
}

// SetTime stops the server's clock at now, which must not be the zero time: TIME
// says now, and keys have aged by what lies between. A clock set back takes no
// age off. There is no way back to a clock that runs.
func (e *Embedded) SetTime(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped = true
	e.server.SetTime(now)
}

// Close closes the clients, stops the server and waits for its goroutines.
// Closing twice is fine.
func (e *Embedded) Close() {
	e.mu.Lock()
	clients := e.clients
	e.clients = nil
	e.mu.Unlock()
	for _, rdb := range clients {
		// A client that its user has closed says so here, and nothing else.
		_ = rdb.Close()
	}
	_ = e.listener.Close()
	e.accepting.Wait()
	e.server.Close()
}

// ticking is a connection that sets the server's clock whenever it brings
// commands, before any of them is executed. So a key is never gone before its
// time, nor there after it, by the clock of whoever asks.
//
// Three simpler ways do not serve. FastForward, called now and then, ages the
// keys and leaves TIME alone, and the two drift apart. A goroutine that sets the
// clock is late on a busy machine, and keys written meanwhile expire early. And a
// server whose time is not set reads the real clock, but then visits all its keys
// for every command: with ten thousand, that is milliseconds.
type ticking struct {
	net.Conn
	server *Embedded
}

// Read implements net.Conn.
func (c ticking) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.server.tick()
	return n, err
}

// tick sets the clock of the server to the real time, unless it has just done so.
// It spends no more than a quarter of the time on it, however many keys there are.
//
// On a busy machine it may be interrupted, which takes long once and says nothing of
// the next time: the clock would be late for as long, and keys outlive their TTL. So
// what it costs is believed only as far as it is not more than twice what it was.
//
// The clock is the monotonic one, counted from the start. time.Now reads the wall
// clock first and the monotonic one second. A busy machine may stop it in between, for
// more than 100 ms. TIME goes by the former and the age of keys by the latter, so they
// would disagree.
func (e *Embedded) tick() {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.began.Add(time.Since(e.began))
	if e.stopped || now.Before(e.next) {
		return
	}
	e.server.SetTime(now)
	e.server.DB(0) // any access ages all keys
	e.cost = min(time.Since(now), max(2*e.cost, 10*time.Microsecond))
	e.next = now.Add(max(time.Millisecond, 4*e.cost))
}
