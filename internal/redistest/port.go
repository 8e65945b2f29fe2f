package redistest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
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
		var l net.Listener
		if l, err = net.Listen("tcp", loopback(port)); err != nil {
			_ = token.Close()
			continue
		}
		if t != nil {
			t.Cleanup(func() { _ = token.Close() })
		} else {
			kept.mu.Lock()
			kept.tokens = append(kept.tokens, token)
			kept.mu.Unlock()
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port between %d and %d: %w", low, high, err)
}

// reserve returns what says to all processes that a port is taken, until it is closed
// or the process ends: the UDP port of that number, which no server of tests has.
func reserve(port int) (net.PacketConn, error) { return net.ListenPacket("udp", loopback(port)) }

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

var kept struct {
	mu     sync.Mutex
	tokens []net.PacketConn // guarded by mu; what is collected is closed
}
