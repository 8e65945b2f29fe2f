package redistest

import (
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestThePortOfAServerThatIsKilledIsItsOwnUntilItsTestEnds(t *testing.T) {
	t.Parallel()
	var port int
	t.Run("a server", func(t *testing.T) {
		s := Start(t)
		port = s.port
		s.Kill()
		_, err := reserve(port)
		require.ErrorIs(t, err, syscall.EADDRINUSE)
	})
	token, err := reserve(port)
	if err == nil { // else another test has it by now
		require.NoError(t, token.Close())
	}
}

func TestThePortOfAProxyThatRefusesIsItsOwn(t *testing.T) {
	t.Parallel()
	p := NewProxy(t, loopback(Port(t)))
	port := p.listener.Addr().(*net.TCPAddr).Port
	p.Refuse()
	_, err := reserve(port)
	require.ErrorIs(t, err, syscall.EADDRINUSE)
}
