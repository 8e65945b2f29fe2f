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

// Port returns a port of the loopback interface that nobody listens on, and that no
// other test gets, of this process or another, until t ends.
func Port(t testing.TB) int {
	t.Helper()
	port, err := freePort(t)
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	return port
}

// freePort is Port; without a test, the port is kept as long as the process lives. So
// a server that is killed, or that refuses connections, gets its port back: else a
// server of another test might have it meanwhile, and be asked in its place.
//
// It is below those that systems give to outgoing connections, for the same reason.
// And 10000 above it there is room for the bus port of a Redis Cluster node.
func freePort(t testing.TB) (int, error) {
	const low, high, attempts = 12000, 22000, 100
	var err error
	for range attempts {
		port := low + rand.IntN(high-low)
		var token net.PacketConn
		if token, err = reserve(port); err != nil {
			continue
		}
		// To listen instead would leave the port in use for a moment: see listen.
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

// reserve returns what says to all processes that a port is taken, until it is closed
// or the process ends: the UDP port of that number, which no server of tests has.
func reserve(port int) (net.PacketConn, error) { return net.ListenPacket("udp", loopback(port)) }

// listen listens on a port that is reserved. A process that is being started has all
// files of this one until it runs its own program, a listener that was just closed among
// them. So a port may be in use for a moment, and listen tries it again.
func listen(addr string) (net.Listener, error) {
	for until := time.Now().Add(Patience); ; time.Sleep(time.Millisecond) {
		l, err := net.Listen("tcp", addr)
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(until) {
			return l, err
		}
	}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

var kept struct {
	mu     sync.Mutex
	tokens []net.PacketConn // guarded by mu; what is collected is closed
}
