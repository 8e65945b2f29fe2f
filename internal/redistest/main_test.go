package redistest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	Register("parrot", parrot)
	Register("keeper", keeper)
	Register("brief", func() {})
	Main(m,
		func() error { return goleak.Find(goleak.IgnoreAnyFunction(Lingers)) },
		func() error { return lastCheck() })
}

var lastCheck = func() error { return nil }

// parrot prints its text and waits to be killed.
func parrot() {
	fmt.Println("first:", os.Getenv("PARROT"))
	fmt.Fprintln(os.Stderr, "second: to standard error")
	fmt.Println("third: done")
	<-time.After(Patience)
}

// keeper starts a server, prints its address, and waits to be killed.
func keeper() {
	s := &Server{dir: os.TempDir()}
	if err := s.start(); err != nil {
		fmt.Println("failed:", err)
		return
	}
	fmt.Println("address:", s.Addr())
	<-time.After(Patience)
}

func TestFinishFailsARunWhoseLastChecksFail(t *testing.T) {
	t.Parallel()
	calls := 0
	good := func() error { calls++; return nil }
	bad := func() error { calls++; return errors.New("this line is part of a test: a check that fails") }
	require.Zero(t, finish(nil, 0))
	require.Zero(t, finish([]func() error{good, good}, 0))
	require.Equal(t, 1, finish([]func() error{bad, good}, 0))
	require.Equal(t, 4, calls, "a check was left out")
}

// A goroutine that is ending when the last test has ended is no leak.
func TestFinish_GivesACheckTime(t *testing.T) {
	t.Parallel()
	calls := 0
	require.Zero(t, finish([]func() error{func() error {
		if calls++; calls < 3 {
			return errors.New("a goroutine is still ending")
		}
		return nil
	}}, Patience))
	require.Equal(t, 3, calls)
}

// witness is a testing.TB that records how a test ends instead of ending it.
type witness struct {
	testing.TB
	mu              sync.Mutex
	skipped, failed string
}

// watch runs f as the body of a test and returns how it ended.
func watch(t *testing.T, f func(testing.TB)) *witness {
	w := &witness{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(w)
	}()
	<-done
	return w
}

func (w *witness) Skipf(format string, args ...any) { w.end(&w.skipped, fmt.Sprintf(format, args...)) }
func (w *witness) Fatalf(format string, args ...any) {
	w.end(&w.failed, fmt.Sprintf(format, args...))
}
func (w *witness) Fatal(args ...any) { w.end(&w.failed, fmt.Sprint(args...)) }

func (w *witness) end(how *string, text string) {
	w.mu.Lock()
	*how = text
	w.mu.Unlock()
	runtime.Goexit()
}
