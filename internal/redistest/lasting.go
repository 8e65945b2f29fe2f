package redistest

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
)

// Lasting returns a testing.TB like t whose cleanups run when all tests of this
// test binary have ended, whether they passed or not. The first test that asks
// for a shared server starts it with Lasting, as in Spawn(Lasting(t), cmd). The
// TestMain of the package must call [Main].
func Lasting(t testing.TB) testing.TB {
	t.Helper()
	if !sharedServer.allowed.Load() {
		t.Fatal("redistest: Lasting needs a TestMain that calls redistest.Main, which cleans up")
	}
	return lasting{t}
}

type lasting struct{ testing.TB }

// Cleanup implements testing.TB.
func (lasting) Cleanup(f func()) {
	lastly.mu.Lock()
	defer lastly.mu.Unlock()
	lastly.calls = append(lastly.calls, f)
}

// TempDir implements testing.TB.
func (l lasting) TempDir() string {
	dir, err := os.MkdirTemp("", "redistest")
	if err != nil {
		l.Fatalf("redistest: %v", err)
	}
	l.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Logf implements testing.TB. It does not log to t, which may have ended and
// then must not log.
func (lasting) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

var lastly struct {
	mu    sync.Mutex
	calls []func() // guarded by mu
}

// cleanUp calls the functions passed to Cleanup, the last one first.
func cleanUp() {
	lastly.mu.Lock()
	defer lastly.mu.Unlock()
	for _, f := range slices.Backward(lastly.calls) {
		f()
	}
	lastly.calls = nil
}
