package redistest

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Bubble runs f in a bubble of package synctest, with a client of an embedded
// server that is in the bubble too. Time is the bubble's: it passes at once when
// every goroutine waits, and keys and TIME go by it. So a test of leases and
// expiries that takes minutes is over in milliseconds, and is the same each time.
//
// Another client of the same server is redis.NewClient(rdb.Options()). All
// clients must be closed when f and its cleanups are done; rdb is closed then.
func Bubble(t *testing.T, f func(t *testing.T, rdb *redis.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, InMemory(t)) })
}

// InMemory returns a client of an embedded server without a socket, which works in a
// bubble of package synctest and outside. Keys and TIME go by the clock where it was
// called. Another client of the same server is redis.NewClient(rdb.Options()). The client
// and the server are closed when the test ends.
func InMemory(t testing.TB) *redis.Client {
	t.Helper()
	server := miniredis.NewMiniRedis()
	server.ClockTTL(true)
	// This starts the server without a listener: a goroutine that waits in
	// Accept would keep time from passing.
	conn, err := server.Dial()
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	_ = conn.Close()

	var mu sync.Mutex
	closed := false
	rdb := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:6379", // in name only
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			client, end := net.Pipe()
			if closed {
				// go-redis dials in a goroutine that Close does not wait for. After an
				// error it sleeps and dials again, and in a bubble that has ended it
				// never wakes; a closed connection makes it end at once.
				_ = end.Close()
				return client, nil
			}
			server.Server().ServeConn(newEager(end))
			return client, nil
		},
		// These make go-redis look names up, in what all bubbles share, and
		// keep two clients from being made of the same options.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	// The cleanups of the test come first, and may need the server.
	t.Cleanup(func() {
		_ = rdb.Close()
		mu.Lock()
		closed = true
		mu.Unlock()
		server.Close()
	})
	return rdb
}

// eager is a connection whose writes do not wait for a reader, as those to a
// socket do not. A pipe's do: a server that answers the first command of a long
// pipeline, and a client that still writes the others, would wait for each other.
type eager struct {
	net.Conn
	sending sync.WaitGroup

	mu      sync.Mutex
	queue   []byte     // guarded by mu; what is still to be sent
	changed *sync.Cond // of queue and closed
	closed  bool       // guarded by mu
}

func newEager(conn net.Conn) *eager {
	c := &eager{Conn: conn}
	c.changed = sync.NewCond(&c.mu)
	c.sending.Go(c.send)
	return c
}

// Write implements net.Conn.
func (c *eager) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	c.queue = append(c.queue, b...)
	c.changed.Signal()
	return len(b), nil
}

// Close implements net.Conn. What has not been sent is lost.
func (c *eager) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.changed.Signal()
	err := c.Conn.Close()
	c.sending.Wait()
	return err
}

func (c *eager) send() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for len(c.queue) == 0 && !c.closed {
			c.changed.Wait()
		}
		if c.closed {
			return
		}
		b := c.queue
		c.queue = nil
		c.mu.Unlock()
		_, err := c.Conn.Write(b)
		c.mu.Lock()
		if err != nil {
			c.closed = true
		}
	}
}
