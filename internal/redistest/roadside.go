package redistest

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Roadside counts the round trips of the connections of a client. A round trip
// is a write to a connection after a read from it. Roadside counts below the
// client, where one flush of a long pipeline may be several writes. It ignores
// the commands that open a connection, and all of a connection that subscribes.
// Its zero value is ready to use. It is safe for concurrent use.
type Roadside struct {
	mu    sync.Mutex
	conns []*counting // guarded by mu
}

type counting struct {
	net.Conn
	r       *Roadside
	trips   int  // guarded by r.mu
	writing bool // guarded by r.mu: written to and not read from since
	listens bool // guarded by r.mu
}

// Dial is redis.Options.Dialer, or redis.ClusterOptions.Dialer.
func (r *Roadside) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return r.dial(ctx, network, addr, new(net.Dialer).DialContext)
}

// Client returns one more client of the server of rdb, which may be in a
// bubble. The client has one connection, whose round trips are counted. It is
// closed when the test ends.
func (r *Roadside) Client(t testing.TB, rdb *redis.Client) *redis.Client {
	t.Helper()
	opts := *rdb.Options()
	opts.PushNotificationProcessor = nil // NewClient has set it, and each client needs its own
	opts.PoolSize = 1
	dial := opts.Dialer
	opts.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return r.dial(ctx, network, addr, dial)
	}
	counted := redis.NewClient(&opts)
	t.Cleanup(func() { _ = counted.Close() })
	return counted
}

func (r *Roadside) dial(ctx context.Context, network, addr string, dial func(context.Context, string, string) (net.Conn, error)) (net.Conn, error) {
	conn, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &counting{Conn: conn, r: r}
	r.conns = append(r.conns, c)
	return c, nil
}

// Write implements net.Conn.
func (c *counting) Write(b []byte) (int, error) {
	c.r.mu.Lock()
	if !c.writing && !bytes.Contains(b[:min(len(b), 32)], []byte("\r\nhello\r\n")) {
		c.trips++
	}
	c.writing = true
	c.listens = c.listens || bytes.Contains(b, []byte("subscribe"))
	c.r.mu.Unlock()
	return c.Conn.Write(b)
}

// Read implements net.Conn.
func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.r.mu.Lock()
		c.writing = false
		c.r.mu.Unlock()
	}
	return n, err
}

// Through returns a Dialer like dial whose connections are counted.
func (r *Roadside) Through(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		return r.dial(ctx, network, addr, dial)
	}
}

// Trips returns the number of round trips.
func (r *Roadside) Trips() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		if !c.listens {
			n += c.trips
		}
	}
	return n
}
