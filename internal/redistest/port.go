package redistest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Port returns a free port of the loopback interface. Until t ends, no other
// test gets it, in this process or another.
func Port(t testing.TB) int {
	t.Helper()
	port, err := freePort(t)
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	return port
}

// freePort is Port, but with a nil t it reserves the port as long as the
// process lives. So a server that is killed, or that refuses connections, can
// get its port back. Otherwise a server of another test might take the port
// meanwhile, and get its commands.
//
// The port is below the range of outgoing connections, for the same reason. It
// is so low that the bus port of a Redis Cluster node, 10000 above it, is valid
// too.
func freePort(t testing.TB) (int, error) {
	const low, high, attempts = 12000, 22000, 100
	var err error
	for range attempts {
		port := low + rand.IntN(high-low)
		var token net.PacketConn
		if token, err = reserve(port); err != nil {
			continue
		}
		// Listening instead would leave the port in use for a moment: see
		// listen.
		if conn, failed := net.DialTimeout("tcp", loopback(port), 100*time.Millisecond); failed == nil {
			_, _ = conn.Close(), token.Close()
			err = fmt.Errorf("port %d is in use", port)
			continue
		}
		if t != nil {
			t.Cleanup(func() { _ = token.Close() })
		} else {
			kept.mu.Lock()
			kept.tokens = append(kept.tokens, token)
			kept.mu.Unlock()
		}
		return port, nil
	}
	return 0, fmt.Errorf("no free port between %d and %d: %w", low, high, err)
}

// reserve marks a port as taken for all processes, until the result is closed
// or the process ends. It takes the UDP port with that number, which no server
// of a test uses.
func reserve(port int) (net.PacketConn, error) { return net.ListenPacket("udp", loopback(port)) }

// listen listens on a reserved port. A child process has all files of this
// process until it runs its own program, including a listener that was just
// closed. So a port may be in use for a moment, and listen retries.
func listen(addr string) (net.Listener, error) {
	for until := time.Now().Add(Patience); ; time.Sleep(time.Millisecond) {
		l, err := net.Listen("tcp", addr)
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(until) {
			return l, err
		}
	}
}

// unlistened returns when addr, whose listener was just closed, refuses
// connections. Until then a child process has the listener; see listen.
func unlistened(addr string) {
	for until := time.Now().Add(Patience); time.Now().Before(until); time.Sleep(time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		_ = conn.Close()
	}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

var kept struct {
	mu     sync.Mutex
	tokens []net.PacketConn // guarded by mu; a collected token would be closed
}
