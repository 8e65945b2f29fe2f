package redistest

import (
	"context"
	"net"
	"sync"
	"time"
)

// Lines dials connections whose replies time out when the test says so. A short
// ReadTimeout would also end a reply that a busy machine only delays. Dial is
// redis.Options.Dialer. The zero value is ready to use, and safe for concurrent
// use.
type Lines struct {
	mu   sync.Mutex
	open []*line
}

// Dial connects to addr.
func (l *Lines) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	dialed := &line{Conn: conn}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = append(l.open, dialed)
	return dialed, nil
}

// Expire makes every read from the connections dialed so far time out, both
// reads in progress and later ones. Writes still succeed, so the server gets
// later commands and the client never sees the replies.
func (l *Lines) Expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, dialed := range l.open {
		dialed.expire()
	}
	l.open = nil
}

// line is a connection of Lines.
type line struct {
	net.Conn
	mu      sync.Mutex
	expired bool // guarded by mu, with the deadlines of Conn
}

func (l *line) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expired = true
	_ = l.Conn.SetReadDeadline(time.Unix(0, 1)) // an error says that it is closed
}

// SetDeadline implements net.Conn.
func (l *line) SetDeadline(t time.Time) error {
	if err := l.SetReadDeadline(t); err != nil {
		return err
	}
	return l.Conn.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (l *line) SetReadDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.expired {
		return nil
	}
	return l.Conn.SetReadDeadline(t)
}
