package redistest

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/defaults"
)

// Lingers is a function of go-redis that a test for leaks must ignore. A client
// whose server was down tries to dial it once a second, and notices up to a
// second later that it was closed.
const Lingers = "github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"

// Main is the body of a TestMain: it runs the tests, stops the shared server
// and exits. If a test sets no LeaseTTL, its leases last for three times
// [Patience]. So no heartbeat, which comes after a third of that, adds to the
// commands that a test counts. In a bubble, where no machine is slow, the
// defaults of the product apply. If the tests pass, Main calls each function of
// after. The run fails if one of them still returns an error after [Patience].
// Use them to look for leaked goroutines, as in
//
//	func TestMain(m *testing.M) {
//		redistest.Main(m, func() error { return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers)) })
//	}
//
// goleak is passed in, not imported, because a program that runs the embedded
// server must not be linked with it.
func Main(m *testing.M, after ...func() error) {
	if os.Getenv(networkEnv) == "" { // where a test cuts a network, the limits of the product end a wait
		mainBegan = time.Now()
	}
	defaults.InTests = func() time.Duration {
		if inRealTime() {
			return 3 * Patience
		}
		return 0
	}
	if name := os.Getenv(childEnv); name != "" {
		os.Exit(runChild(name))
	}
	sharedServer.allowed.Store(true)
	code := m.Run()
	cleanUp()
	stopShared()
	if code == 0 {
		code = finish(after, Patience)
	}
	os.Exit(code)
}

// Shared returns the redis-server that all tests of this test binary share. The
// first call starts it, and [Main] stops it. Each test uses its own [Key] and
// never FLUSHALL, so the tests may run in parallel. No test may kill, stop or
// configure it. If redis-server is missing, the test is skipped; see [Binary].
func Shared(t testing.TB) *Server {
	t.Helper()
	Binary(t, "redis-server")
	if !sharedServer.allowed.Load() {
		t.Fatal("redistest: Shared needs a TestMain that calls redistest.Main, which stops the server")
	}
	sharedServer.mu.Lock()
	defer sharedServer.mu.Unlock()
	if sharedServer.server == nil {
		dir, err := os.MkdirTemp("", "redistest")
		if err != nil {
			t.Fatalf("redistest: %v", err)
		}
		s := &Server{dir: dir, shared: true}
		if err := s.start(); err != nil {
			_ = os.RemoveAll(dir)
			t.Fatalf("redistest: %v", err)
		}
		sharedServer.server = s
	}
	s := *sharedServer.server
	s.t = t
	return &s
}

// Each runs f as two parallel subtests: "embedded" on an embedded server of its
// own, and "redis" on the shared one. Each subtest gets a client, which is
// closed when the subtest ends. Like t.Run of a parallel subtest, Each may
// return before f does.
//
// With CACHEX_SERVERS_ONLY=1 in the environment "embedded" is skipped. A run of
// the tests without servers then covers it.
func Each(t *testing.T, f func(t *testing.T, rdb *redis.Client)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		if os.Getenv("CACHEX_SERVERS_ONLY") == "1" {
			t.Skip("it is for the run without servers")
		}
		f(t, StartEmbedded(t).Client(nil))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		f(t, Shared(t).Client(nil))
	})
}

// Key returns a prefix for the keys of this test that no other call in this
// process gets. It has only letters, digits and underscores, so it can be part
// of a key template, of a hash tag and of a MATCH pattern.
func Key(t testing.TB) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		default:
			return '_'
		}
	}, t.Name())
	return fmt.Sprintf("%s_%d", name, keys.Add(1))
}

var (
	keys atomic.Int64

	sharedServer struct {
		allowed atomic.Bool // Main runs, and will stop the server
		mu      sync.Mutex
		server  *Server // guarded by mu; nil until the first call of Shared
	}
)

// finish makes the last checks and returns the exit status. It repeats a check
// that fails until patience is over: a goroutine that is ending may need more
// than the half second that goleak waits. One in which go-redis dials does.
func finish(checks []func() error, patience time.Duration) (code int) {
	until := time.Now().Add(patience)
	for _, check := range checks {
		err := check()
		for err != nil && time.Now().Before(until) {
			time.Sleep(10 * time.Millisecond)
			err = check()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

// mainBegan is the time when Main was called. It is zero in a test that cuts a
// network, and in a program that does not call Main.
var mainBegan time.Time

// inRealTime reports whether a test of Main runs outside of a bubble. In a
// bubble, the year is 2000.
func inRealTime() bool {
	return !mainBegan.IsZero() && time.Now().After(mainBegan.AddDate(-1, 0, 0))
}

func stopShared() {
	sharedServer.mu.Lock()
	defer sharedServer.mu.Unlock()
	if s := sharedServer.server; s != nil {
		s.proc.Kill()
		_ = os.RemoveAll(s.dir)
		sharedServer.server = nil
	}
}
