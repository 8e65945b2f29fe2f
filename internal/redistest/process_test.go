package redistest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// The test sets the environment, so it cannot be parallel.
func TestBinarySkipsOrFailsWithoutTheProgramAsTheEnvironmentSays(t *testing.T) {
	ask := func(t testing.TB) { Binary(t, "no-such-server") }

	t.Setenv("CACHEX_REQUIRE_SERVERS", "")
	w := watch(t, ask)
	require.Equal(t, "no-such-server is not on PATH: install it to run this test", w.skipped)
	require.Empty(t, w.failed)

	t.Setenv("CACHEX_REQUIRE_SERVERS", "1")
	w = watch(t, ask)
	require.Empty(t, w.skipped)
	require.Contains(t, w.failed, "no-such-server is not on PATH")
}

func TestWaitLineReturnsLinesInTheirOrder(t *testing.T) {
	t.Parallel()
	p := Child(t, "parrot", "PARROT=polly")
	require.Equal(t, "first: polly", p.WaitLine("first"))
	require.Equal(t, "second: to standard error", p.WaitLine("second"))
	require.Equal(t, "third: done", p.WaitLine("done"))
	require.Contains(t, p.Output(), "first: polly\n")
}

func TestWaitLineFailsWhenTheProcessEndsFirst(t *testing.T) {
	t.Parallel()
	w := watch(t, func(t testing.TB) {
		p := Child(t, "parrot")
		p.WaitLine("third")
		p.Kill()
		p.WaitLine("first") // was before "third", and WaitLine does not go back
	})
	require.Contains(t, w.failed, `before it wrote "first"`)
	require.Contains(t, w.failed, "third: done", "the output should be shown")
}

func TestWaitTellsHowTheProcessEnded(t *testing.T) {
	t.Parallel()
	require.NoError(t, Child(t, "brief").Wait())

	p := Child(t, "parrot")
	p.WaitLine("third")
	p.Kill()
	p.Kill() // a second Kill does nothing
	var exit *exec.ExitError
	require.ErrorAs(t, p.Wait(), &exit)
	require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
}

func TestAStoppedProcessCanBeKilled(t *testing.T) {
	t.Parallel()
	p := Child(t, "parrot")
	p.WaitLine("third")
	p.Stop()
	p.Kill()
	require.Error(t, p.Wait())
}

func TestChildFailsATestThatAsksForNobody(t *testing.T) {
	t.Parallel()
	w := watch(t, func(t testing.TB) { Child(t, "nobody") })
	require.Contains(t, w.failed, `no child is registered as "nobody"`)

	// A process that is started without a registered function does not run the
	// tests again either.
	t.Run("or a process", func(t *testing.T) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"=nobody")
		p := Spawn(t, cmd)
		var exit *exec.ExitError
		require.ErrorAs(t, p.Wait(), &exit)
		require.Equal(t, 2, exit.ExitCode())
		require.Contains(t, p.Output(), `no child is registered as "nobody"`)
	})
}

func TestRegisterRefusesANameThatIsTaken(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { Register("parrot", func() {}) })
}

func TestSpawnFailsATestWhoseProgramCannotStart(t *testing.T) {
	t.Parallel()
	w := watch(t, func(t testing.TB) { Spawn(t, exec.Command("/no/such/program")) })
	require.Contains(t, w.failed, "/no/such/program")
}

func TestServersOutliveTheThreadThatAskedForThem(t *testing.T) {
	t.Parallel()
	Binary(t, "redis-server")
	s := &Server{t: t, dir: t.TempDir()}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- s.start()
	}()
	require.NoError(t, <-done)
	s.proc.attend(t)
	rdb := s.Client(nil)
	for range 50 { // until the thread has certainly ended
		require.NoError(t, rdb.Ping(t.Context()).Err())
		runtime.Gosched()
	}
}

func TestServersDieWithATestBinaryThatIsKilled(t *testing.T) {
	t.Parallel()
	Binary(t, "redis-server")
	if !diesWithParent {
		t.Skip("only Linux ends a child with its parent")
	}
	p := Child(t, "keeper")
	line := p.WaitLine("address: ")
	rdb := redis.NewClient(&redis.Options{Addr: line[len("address: "):], MaxRetries: -1, ReadTimeout: Patience})
	t.Cleanup(func() { _ = rdb.Close() })
	require.NoError(t, rdb.Ping(t.Context()).Err())

	// A subscription ends when the server's last socket is closed.
	sub := rdb.Subscribe(t.Context(), "ending")
	t.Cleanup(func() { _ = sub.Close() })
	_, err := sub.Receive(t.Context())
	require.NoError(t, err)
	p.Kill()
	_, err = sub.ReceiveTimeout(t.Context(), Patience)
	require.ErrorIs(t, err, io.EOF)
	require.Error(t, rdb.Ping(t.Context()).Err())
}

func TestWhatLastsIsCleanedUpWhenAllTestsHaveEnded(t *testing.T) {
	t.Parallel()
	ended, dir := false, ""
	t.Run("first", func(t *testing.T) {
		l := Lasting(t)
		dir = l.TempDir()
		l.Cleanup(func() { ended = true })
	})
	require.False(t, ended)
	require.DirExists(t, dir)
	lastCheck = func() error {
		if _, err := os.Stat(dir); !ended || !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("what lasts is cleaned up: %v, and %s: %v", ended, dir, err)
		}
		return nil
	}
}
