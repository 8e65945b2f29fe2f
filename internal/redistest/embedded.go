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
// Unlike in plain miniredis, keys expire as time passes, and TIME, as clients
// and scripts see it, agrees with their expiry. As in Redis, time does not pass
// while a script runs, and is counted in milliseconds. Embedded is meant for
// some thousands of keys: with more keys, its clock ticks less often.
//
// Its methods are safe for concurrent use.
type Embedded struct {
	server    *miniredis.Miniredis
	listener  net.Listener
	accepting sync.WaitGroup
	began     time.Time // start of the clock

	mu      sync.Mutex
	clients []*redis.Client // guarded by mu; closed by Close
	stopped bool            // guarded by mu; SetTime controls the clock
	next    time.Time       // guarded by mu; the clock is valid until then
	cost    time.Duration   // guarded by mu; time that setting the clock takes
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

// Client returns a client of the server, which Close closes. If configure is
// not nil, it may change the client's options first.
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

// SetTime stops the server's clock at now, which must not be the zero time.
// TIME returns now, and keys age by the time between the old clock and now. If
// the clock is set back, keys do not become younger. The clock cannot be
// started again.
func (e *Embedded) SetTime(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped = true
	e.server.SetTime(now)
}

// Close closes the clients, stops the server and waits for its goroutines. A
// second call does nothing.
func (e *Embedded) Close() {
	e.mu.Lock()
	clients := e.clients
	e.clients = nil
	e.mu.Unlock()
	for _, rdb := range clients {
		// The only possible error says that the user has closed the client.
		_ = rdb.Close()
	}
	_ = e.listener.Close()
	e.accepting.Wait()
	e.server.Close()
}

// ticking is a connection that sets the server's clock whenever it delivers
// commands, before any of them is executed. So by the clock of the caller, a
// key never expires before its time and never exists after it.
//
// Three simpler ways do not work. FastForward, called now and then, ages the
// keys and not TIME, so the two drift apart. A goroutine that sets the clock is
// late on a busy machine, and keys written meanwhile expire early. A server
// whose time is not set reads the real clock, but visits all its keys for every
// command. With ten thousand keys that takes milliseconds.
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

// tick sets the clock of the server to the real time, unless it has just done
// so. It spends at most a quarter of the time on that, however many keys exist.
//
// On a busy machine tick may be interrupted. One long measurement predicts
// nothing: if it were used unchanged, the clock would be late by as much, and
// keys would outlive their TTL. So a measured cost counts for at most twice the
// previous cost.
//
// The clock is the monotonic one, counted from the start. time.Now reads the
// wall clock first and the monotonic clock second. A busy machine may stop the
// process between the two for more than 100 ms. TIME follows the former and the
// age of keys the latter, so they would disagree.
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
