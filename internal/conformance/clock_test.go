package conformance

import (
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

const hour = time.Hour

// A clock is the wall clock of one server, which steps when it is told.
type clock struct {
	steps string // the file that says by how many seconds it is wrong
}

// stepping is what libc tells the time by in a server whose clock steps. The monotonic
// clock goes on, as it does when an operator or NTP sets the other one.
const stepping = `
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long long wrong(void) {
	static volatile long long *by;
	if (!by) {
		const char *file = getenv("CACHEX_CLOCK");
		int fd = file ? open(file, O_RDONLY) : -1;
		void *p = fd < 0 ? MAP_FAILED : mmap(0, sizeof *by, PROT_READ, MAP_SHARED, fd, 0);
		if (fd >= 0) close(fd);
		if (p == MAP_FAILED) return 0;
		by = p;
	}
	return *by;
}

int clock_gettime(clockid_t id, struct timespec *at) {
	int failed = syscall(SYS_clock_gettime, id, at);
	if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += wrong();
	return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
	(void)zone;
	struct timespec now;
	int failed = clock_gettime(CLOCK_REALTIME, &now);
	at->tv_sec = now.tv_sec;
	at->tv_usec = now.tv_nsec / 1000;
	return failed;
}

time_t time(time_t *at) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (at) *at = now.tv_sec;
	return now.tv_sec;
}
`

// compiled is the library that stepping makes, for all tests.
var compiled struct {
	sync.Mutex
	file string // guarded by the Mutex
}

// newClock returns a clock that is right. The test is skipped where libc cannot be told
// to heed it: it takes Linux and a C compiler.
func newClock(t *testing.T) *clock {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the clock of a server can be set on Linux alone, by LD_PRELOAD")
	}
	gcc := redistest.Binary(t, "gcc")
	compiled.Lock()
	defer compiled.Unlock()
	if compiled.file == "" {
		dir := redistest.Lasting(t).TempDir()
		source, library := filepath.Join(dir, "clock.c"), filepath.Join(dir, "clock.so")
		require.NoError(t, os.WriteFile(source, []byte(stepping), 0o600))
		said, err := exec.CommandContext(t.Context(), gcc, "-shared", "-fPIC", "-O1", "-o", library, source).CombinedOutput()
		require.NoError(t, err, "%s", said)
		compiled.file = library
	}
	c := &clock{steps: filepath.Join(t.TempDir(), "clock")}
	require.NoError(t, os.WriteFile(c.steps, make([]byte, 8), 0o600))
	return c
}

// env is for the process whose clock it is.
func (c *clock) env() []string {
	return []string{"LD_PRELOAD=" + compiled.file, "CACHEX_CLOCK=" + c.steps}
}

// set makes the clock wrong by d, at once.
func (c *clock) set(t *testing.T, d time.Duration) {
	t.Helper()
	f, err := os.OpenFile(c.steps, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(int64(d/time.Second))), 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// step sets the clock of the server, and sees that it heeds that.
func (c *clock) step(t *testing.T, p *patient, by time.Duration) {
	t.Helper()
	c.set(t, by)
	at, err := p.admin.Time(t.Context()).Result()
	require.NoError(t, err)
	require.InDelta(t, by.Seconds(), time.Until(at).Seconds(), 60, "the server does not heed its clock")
	p.struck++
	p.does(t, 250)
}

// The lease of a process that died would hold for an hour longer, by what is stored. But
// no lease lasts longer than those who wait for it would make it.
func TestTheLeaseOfWhoIsGoneEndsThoughTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	server := redistest.StartWith(t, c.env())
	line := redistest.NewProxy(t, server.Addr())
	gone := server.Client(func(o *redis.Options) { options(o); o.Addr = line.Addr() })
	began, release := make(chan struct{}), make(chan struct{})
	spec := cachex.Spec[int, string]{Key: "{id}", TTL: time.Minute, LeaseTTL: 300 * time.Millisecond, Up: func(context.Context, int) (string, error) {
		close(began)
		<-release
		return "of who is gone", nil
	}}
	open := func(rdb *redis.Client) *cachex.Cache[int, string] {
		cache, err := cachex.New(rdb, spec)
		require.NoError(t, err)
		atEnd(t, cache.Close)
		return cache
	}
	a := open(gone)
	first := make(chan error, 1)
	go func() { _, err := a.Get(t.Context(), 1); first <- err }()
	<-began
	line.Refuse()
	line.Cut()
	c.set(t, -hour)
	spec.Up = func(context.Context, int) (string, error) { return "of who came after", nil }
	b := open(server.Client(nil))
	v, err := b.Get(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, "of who came after", v)
	close(release)
	require.NoError(t, <-first)
	line.Accept()
	v, err = b.Get(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, "of who came after", v)
}

// A batch in hand of a process that died would be its own for an hour longer, by what is
// stored. Another process persists it all the same.
func TestWriteBehind_ABatchOfADeadProcessIsPersistedThoughTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	server := redistest.StartWith(t, c.env())
	line := redistest.NewProxy(t, server.Addr())
	gone := server.Client(func(o *redis.Options) { o.Addr, o.MaxRetries, o.DialerRetries = line.Addr(), -1, 1 })
	open := func(rdb *redis.Client, persist func(ledger.Batch)) *writebehind.Engine {
		e, err := writebehind.New(rdb, writebehind.Options{
			Name: "counts", Merge: writebehind.Sum, Buckets: 1, Every: 20 * time.Millisecond, LeaseTTL: 300 * time.Millisecond,
			Persist: func(_ context.Context, b ledger.Batch) error { persist(b); return nil },
		})
		require.NoError(t, err)
		return e
	}
	began, release := make(chan struct{}, 1), make(chan struct{})
	a := open(gone, func(ledger.Batch) { began <- struct{}{}; <-release })
	require.NoError(t, a.Add(t.Context(), "x", 1))
	<-began
	line.Refuse()
	line.Cut()
	c.set(t, -hour)
	persisted := make(chan ledger.Batch, 1)
	b := open(server.Client(nil), func(batch ledger.Batch) {
		select {
		case persisted <- batch:
		default:
		}
	})
	atEnd(t, b.Close)
	b.Start()
	select {
	case batch := <-persisted:
		require.Equal(t, map[string]int64{"x": 1}, batch.Deltas)
	case <-time.After(patience):
		require.Fail(t, "the batch waits for its process")
	}
	close(release)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.Error(t, a.Close(ctx), "its line is cut")
}
