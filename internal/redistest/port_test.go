package redistest

import (
	"net"
	"os/exec"
	"path/filepath"
	"sync"
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
	if err == nil { // otherwise another test has it by now
		require.NoError(t, token.Close())
	}
}

// Processes start all the time, and each of them has the listener for a moment.
func TestPort_IsFreeWhileProcessesAreStarted(t *testing.T) {
	t.Parallel()
	none := filepath.Join(t.TempDir(), "none") // it is started anyway, and fails
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_ = exec.Command(none).Start()
				}
			}
		})
	}
	defer wg.Wait()
	defer close(done)
	for range 500 {
		port := Port(t)
		l, err := listen(loopback(port))
		require.NoError(t, err)
		require.NoError(t, l.Close())
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
