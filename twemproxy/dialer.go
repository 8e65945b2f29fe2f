package twemproxy

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Dialer returns a dialer for redis.Options.Dialer and similar fields. Its
// connections answer the opening commands of go-redis themselves: HELLO, CLIENT
// and SELECT. The answer is the error of a server that does not know the
// command, after which go-redis speaks RESP2. A leading SUBSCRIBE gets the same
// answer. Everything after the first other command is passed to the proxy
// unread.
//
// next makes the connections; if it is nil, Dialer dials with a timeout of five
// seconds. NewClient uses Dialer, and does more. Dialer is for clients that are
// made in another way.
func Dialer(next func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	if next == nil {
		next = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		inner, err := next(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: inner}
		if raw, ok := inner.(syscall.Conn); ok {
			// go-redis needs it to find out that an idle connection is dead.
			return &rawConn{c, raw}, nil
		}
		return c, nil
	}
}

type rawConn struct {
	*conn
	raw syscall.Conn
}

// SyscallConn implements syscall.Conn.
func (c *rawConn) SyscallConn() (syscall.RawConn, error) { return c.raw.SyscallConn() }

// conn is a connection to a twemproxy. Like on any connection, Read and Write
// may be called concurrently.
type conn struct {
	net.Conn
	opened atomic.Bool // the opening is over; nothing is parsed any more

	mu      sync.Mutex
	answers bytes.Buffer // guarded by mu: replies that are read before the proxy's
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if c.opened.Load() {
		return c.Conn.Write(b)
	}
	for rest := b; len(rest) > 0; {
		name, size := parseCommand(rest)
		switch {
		case strings.HasSuffix(name, "subscribe"):
			c.reject(name)
			// A concurrent Read may already be waiting for the proxy; this
			// wakes it.
			_ = c.SetReadDeadline(time.Unix(1, 0))
		case answeredHere(name):
			c.reject(name)
		case name == "auth": // the opening continues after it
			if _, err := c.Conn.Write(rest[:size]); err != nil {
				return 0, err
			}
		default:
			c.opened.Store(true)
			if _, err := c.Conn.Write(rest); err != nil {
				return 0, err
			}
			return len(b), nil
		}
		rest = rest[size:]
	}
	return len(b), nil
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	if c.opened.Load() {
		return c.Conn.Read(b)
	}
	if n := c.readAnswers(b); n > 0 {
		return n, nil
	}
	n, err := c.Conn.Read(b)
	if err != nil && n == 0 {
		if n := c.readAnswers(b); n > 0 {
			return n, nil
		}
	}
	return n, err
}

// reject answers a command with an error in place of the proxy.
func (c *conn) reject(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(&c.answers, "-%s\r\n", (&Error{Command: strings.ToUpper(name)}).Error())
}

// readAnswers reads the replies that reject has written.
func (c *conn) readAnswers(b []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, _ := c.answers.Read(b) // io.EOF: it is empty
	return n
}

// answeredHere reports whether the Dialer answers the command.
func answeredHere(name string) bool { return name == "hello" || name == "client" || name == "select" }

// parseCommand returns the name, in lower case, and the size of the first
// command in b. If that command is incomplete, name is "". go-redis flushes its
// opening commands at once, so an incomplete command is a long one, and not
// part of the opening.
func parseCommand(b []byte) (name string, size int) {
	rest := b
	number := func(sign byte) int {
		line, after, ok := bytes.Cut(rest, []byte("\r\n"))
		if !ok || len(line) < 2 || line[0] != sign {
			return -1
		}
		n, err := strconv.Atoi(string(line[1:]))
		if err != nil {
			return -1
		}
		rest = after
		return n
	}
	for i, args := 0, number('*'); i < args; i++ {
		n := number('$')
		if n < 0 || len(rest) < n+2 {
			return "", 0
		}
		if i == 0 {
			name = strings.ToLower(string(rest[:n]))
		}
		rest = rest[n+2:]
	}
	return name, len(b) - len(rest)
}
