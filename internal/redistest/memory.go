package redistest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Memory is an embedded Redis without a socket. It works inside and outside a
// bubble of package synctest. The expiry of keys and TIME follow the clock of
// the place where it was opened. It is safe for concurrent use.
type Memory struct {
	server *miniredis.Miniredis

	mu      sync.Mutex
	ends    map[*eager]struct{} // guarded by mu: the server's ends of open connections
	delay   time.Duration       // guarded by mu: delay of each reply
	refuses bool                // guarded by mu: whether dials fail
	closed  bool                // guarded by mu
}

// OpenMemory starts a server. The caller must Close it.
func OpenMemory() (*Memory, error) {
	m := &Memory{server: miniredis.NewMiniRedis(), ends: make(map[*eager]struct{})}
	m.server.ClockTTL(true)
	// This starts the server without a listener. A goroutine that waits in
	// Accept would stop the time of a bubble.
	conn, err := m.server.Dial()
	if err != nil {
		return nil, err
	}
	_ = conn.Close()
	return m, nil
}

// Options returns options for a client of the server. Each client needs its
// own. Outside of a bubble, a client of a test of [Main] waits for a reply for
// [Patience], as the clients of other servers do.
func (m *Memory) Options() *redis.Options {
	var timeout time.Duration // 0 selects the default of go-redis
	if inRealTime() {
		timeout = replyTimeout()
	}
	return &redis.Options{
		ReadTimeout: timeout, WriteTimeout: timeout,
		Addr:   "127.0.0.1:6379", // a name only
		Dialer: m.Dial,
		// Identification is one more round trip for each connection.
		DisableIdentity: true,
		// With notifications go-redis looks up names in state that all bubbles
		// share, and two clients cannot share options.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// Dial is redis.Options.Dialer.
func (m *Memory) Dial(context.Context, string, string) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	client, end := net.Pipe()
	switch {
	case m.closed:
		// go-redis dials in a goroutine that Close does not wait for. After an
		// error it sleeps and dials again. In a bubble that has ended, it would
		// never wake. A closed connection makes it end at once.
		_ = end.Close()
		return socket{client}, nil
	case m.refuses:
		_, _ = end.Close(), client.Close()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	conn := newEager(end, m)
	m.ends[conn] = struct{}{}
	m.server.Server().ServeConn(conn)
	return socket{client}, nil
}

// socket is the client's end of a pipe. If the other end is closed, it fails as
// a socket does, so that go-redis dials again.
type socket struct{ net.Conn }

// Write implements net.Conn.
func (s socket) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
	}
	return n, err
}

// SetDeadline implements net.Conn.
func (s socket) SetDeadline(t time.Time) error { return still(s.Conn.SetDeadline(t)) }

// SetReadDeadline implements net.Conn.
func (s socket) SetReadDeadline(t time.Time) error { return still(s.Conn.SetReadDeadline(t)) }

// SetWriteDeadline implements net.Conn.
func (s socket) SetWriteDeadline(t time.Time) error { return still(s.Conn.SetWriteDeadline(t)) }

// still drops the error of a pipe whose other end is closed. A socket still
// accepts a deadline then, and fails at the next read or write.
func still(err error) error {
	if errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

// Read implements net.Conn.
func (s socket) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if errors.Is(err, io.ErrClosedPipe) { // this end is closed
		err = &net.OpError{Op: "read", Net: "tcp", Err: net.ErrClosed}
	}
	return n, err
}

// Intercept calls f with each command before it is executed: with its name in
// upper case, and its arguments. If f returns an error, that is the reply. f
// may block, and then blocks its own connection only. f does not see commands
// within scripts. Intercept must be called before the first client is used.
func (m *Memory) Intercept(f func(name string, args []string) error) {
	m.server.Server().SetPreHook(func(peer *server.Peer, name string, args ...string) bool {
		err := f(name, args)
		if err != nil {
			peer.WriteError(err.Error())
		}
		return err != nil
	})
}

// Delay makes each reply arrive d later.
func (m *Memory) Delay(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delay = d
}

// Refuse makes dials fail if refuses is true, and succeed otherwise.
func (m *Memory) Refuse(refuses bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuses = refuses
}

// Cut closes all connections. Replies that were not delivered are lost.
func (m *Memory) Cut() {
	m.mu.Lock()
	ends := m.ends
	m.ends = make(map[*eager]struct{})
	m.mu.Unlock()
	for end := range ends {
		_ = end.Close()
	}
}

// Empty removes all keys and scripts, as the restart of a server without
// persistence does.
func (m *Memory) Empty(ctx context.Context) error {
	m.server.FlushAll()
	rdb := redis.NewClient(m.Options())
	defer func() { _ = rdb.Close() }()
	return rdb.ScriptFlush(ctx).Err()
}

// Evict removes a key of the first database, and reports whether it existed.
func (m *Memory) Evict(key string) bool { return m.server.DB(0).Del(key) }

// Close stops the server. A second call does nothing.
func (m *Memory) Close() {
	m.mu.Lock()
	closed := m.closed
	m.closed = true
	m.mu.Unlock()
	if !closed {
		m.server.Close()
	}
}

// dueAfter returns the time at which a reply that is written now arrives.
func (m *Memory) dueAfter() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.delay == 0 {
		return time.Time{}
	}
	return time.Now().Add(m.delay)
}

// left forgets a closed connection.
func (m *Memory) left(end *eager) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.ends, end)
}

// eager is a connection whose writes do not wait for a reader, as writes to a
// socket do not. Writes to a pipe do wait. A server that answers the first
// command of a long pipeline, and a client that still writes the others, would
// then wait for each other.
type eager struct {
	net.Conn
	of      *Memory
	sending sync.WaitGroup
	gone    chan struct{} // closed by Close

	mu      sync.Mutex
	queue   []chunk    // guarded by mu; chunks that are still to be sent
	changed *sync.Cond // signals changes of queue and closed
	closed  bool       // guarded by mu
}

// chunk is a part of a reply.
type chunk struct {
	b   []byte
	due time.Time // not sent before this time; zero means at once
}

func newEager(conn net.Conn, of *Memory) *eager {
	c := &eager{Conn: conn, of: of, gone: make(chan struct{})}
	c.changed = sync.NewCond(&c.mu)
	c.sending.Go(c.send)
	return c
}

// Write implements net.Conn.
func (c *eager) Write(b []byte) (int, error) {
	due := c.of.dueAfter()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if last := len(c.queue) - 1; last >= 0 && due.IsZero() && c.queue[last].due.IsZero() {
		c.queue[last].b = append(c.queue[last].b, b...)
	} else {
		c.queue = append(c.queue, chunk{append([]byte(nil), b...), due})
	}
	c.changed.Signal()
	return len(b), nil
}

// Close implements net.Conn. Unsent chunks are lost.
func (c *eager) Close() error {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	c.mu.Unlock()
	if first {
		close(c.gone)
	}
	c.changed.Signal()
	err := c.Conn.Close()
	c.sending.Wait()
	c.of.left(c)
	return err
}

func (c *eager) send() {
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && !c.closed {
			c.changed.Wait()
		}
		if c.closed {
			c.mu.Unlock()
			return
		}
		next := c.queue[0]
		c.queue = c.queue[1:]
		c.mu.Unlock()
		if !c.wait(next.due) {
			return
		}
		if _, err := c.Conn.Write(next.b); err != nil {
			c.mu.Lock()
			c.closed, c.queue = true, nil // the client has closed its end
			c.mu.Unlock()
			return
		}
	}
}

// wait waits until due, and reports whether the connection is open.
func (c *eager) wait(due time.Time) bool {
	if due.IsZero() {
		return true
	}
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.gone:
		return false
	}
}
