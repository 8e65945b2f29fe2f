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

// Dialer returns a dialer, for redis.Options.Dialer and the like, whose connections
// answer by themselves what go-redis opens them with, HELLO, CLIENT and SELECT: with
// the error of a server that does not know the command, after which go-redis speaks
// RESP2. A SUBSCRIBE that comes first is answered in the same way. All that comes after the first
// other command goes to the proxy as it is, without being looked at.
//
// next makes the connections; nil dials, for at most five seconds. NewClient uses
// Dialer, and does more. It is for clients that are made in another way.
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
			// By which go-redis finds out that an idle connection is dead.
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

// A conn is a connection to a twemproxy. Read and Write may be called at the same
// time, as those of any connection.
type conn struct {
	net.Conn
	opened atomic.Bool // the opening is over, and nothing is looked at any more

	mu      sync.Mutex
	answers bytes.Buffer // guarded by mu: what is to be read before anything of the proxy
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if c.opened.Load() {
		return c.Conn.Write(b)
	}
	for rest := b; len(rest) > 0; {
		name, size := command(rest)
		switch {
		case strings.HasSuffix(name, "subscribe"):
			c.answer(name)
			// Who reads may be waiting for the proxy already, and is woken.
			_ = c.SetReadDeadline(time.Unix(1, 0))
		case answeredHere(name):
			c.answer(name)
		case name == "auth": // and then comes more of the opening
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
	if n := c.answered(b); n > 0 {
		return n, nil
	}
	n, err := c.Conn.Read(b)
	if err != nil && n == 0 {
		if n := c.answered(b); n > 0 {
			return n, nil
		}
	}
	return n, err
}

// answer refuses a command in place of the proxy.
func (c *conn) answer(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(&c.answers, "-%s\r\n", (&Error{Command: strings.ToUpper(name)}).Error())
}

// answered reads what answer has written.
func (c *conn) answered(b []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, _ := c.answers.Read(b) // the error says that it is empty
	return n
}

// answeredHere reports whether a command is one that the Dialer answers.
func answeredHere(name string) bool { return name == "hello" || name == "client" || name == "select" }

// command returns the name, in lower case, and the size of the command that b begins
// with; "" if that is not a whole one. go-redis flushes what it opens with at once,
// so a part of a command is one that is long, and none of those.
func command(b []byte) (name string, size int) {
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
