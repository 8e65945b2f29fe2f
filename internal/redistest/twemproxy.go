package redistest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/twemproxy"
)

// StartTwemproxy runs a twemproxy in front of the servers at addrs, for one
// test, and returns a client of it, made by package twemproxy. Keys with the
// same hash tag are on the same server. If timeout is not 0, the proxy gives up
// on a server that is silent for so long. Both are stopped when the test ends.
// If nutcracker is missing, the test is skipped; see [Binary].
func StartTwemproxy(t testing.TB, timeout time.Duration, addrs ...string) *redis.Client {
	t.Helper()
	Binary(t, "nutcracker")
	port := Port(t)
	stats := Port(t)
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	config := fmt.Appendf(nil, "pool:\n  listen: %s\n  redis: true\n  distribution: ketama\n  hash: fnv1a_64\n  hash_tag: \"{}\"\n", listen)
	if timeout > 0 {
		config = fmt.Appendf(config, "  timeout: %d\n", timeout.Milliseconds())
	}
	config = fmt.Appendf(config, "  servers:\n   - %s:1\n", strings.Join(addrs, ":1\n   - "))
	file := filepath.Join(t.TempDir(), "nutcracker.yml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatalf("redistest: %v", err)
	}
	Spawn(t, exec.Command("nutcracker", "--conf-file", file, "--stats-port", fmt.Sprint(stats), "--stats-addr", "127.0.0.1"))
	rdb := twemproxy.NewClient(&redis.Options{Addr: listen, ReadTimeout: replyTimeout(), WriteTimeout: replyTimeout()})
	t.Cleanup(func() { _ = rdb.Close() })

	// twemproxy does not report when it is ready, so it is polled.
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := rdb.Get(ctx, "redistest").Err()
		if err == nil || err == redis.Nil {
			return rdb
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("redistest: twemproxy does not serve after %v: %v", Patience, err)
		}
	}
}
