package engine

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// Processes that listen for other keys hear nothing of a contended load, and
// cost the server next to nothing. CACHEX_SIZES=1 runs 5,000 of them. It
// asserts that, by the server's own account, a load costs at most twice its
// cost without them.
func TestContendedLoad_CostsTheServerTheSameWhoeverElseListens(t *testing.T) {
	t.Parallel()
	listeners, rounds, full := 200, 20, os.Getenv("CACHEX_SIZES") != ""
	if full {
		listeners, rounds = 5000, 1000
	}
	server := redistest.Start(t)
	work(t, server.Client(nil), func(t *lab) {
		p, q := newLoader(t, t.client(), still[string]()), newLoader(t, t.client(), still[string]())
		id := 0
		measure := func() float64 {
			require.NoError(t, t.rdb.ConfigResetStat(t.Context()).Err())
			for range rounds {
				id++
				t.key = fmt.Sprintf("contended:%d", id)
				source := newSource[string]()
				a := get(t, p, source.load)
				within(t, source.began)
				b := get(t, q, never[string](t))
				require.Eventually(t, func() bool { return subscribers(t) == 1 }, patience, 100*time.Microsecond)
				source.value <- "v"
				gets(t, "v", a, b)
			}
			return spent(t, t.rdb) / float64(rounds)
		}
		measure() // opens connections
		alone := measure()
		others := make([]net.Conn, listeners)
		for i := range others {
			conn, err := net.Dial("tcp", server.Addr())
			require.NoError(t, err)
			t.closers = append(t.closers, func() { _ = conn.Close() })
			key := fmt.Sprint("other:", i)
			_, err = fmt.Fprintf(conn, "SSUBSCRIBE %s\r\n", script.WakeChannel(key, key))
			require.NoError(t, err)
			require.Equal(t, "ssubscribe", word(t, conn, 6))
			others[i] = conn
		}
		crowd := measure()
		t.Logf("a contended load costs the server %.1f us alone, %.1f us at %d other listeners: %.2f times",
			alone, crowd, listeners, crowd/alone)
		for _, conn := range others {
			_, err := fmt.Fprint(conn, "PING\r\n")
			require.NoError(t, err)
			require.Equal(t, "pong", word(t, conn, 5), "it hears nothing else")
		}
		if full {
			require.LessOrEqual(t, crowd, 2*alone)
		}
	})
}

// word reads an array of so many lines and returns its first element, a string.
func word(t testing.TB, conn net.Conn, lines int) (first string) {
	t.Helper()
	r := bufio.NewReader(conn)
	for i := range lines {
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		if i == 2 { // after the lengths of the array and of the string
			first = strings.TrimSpace(line)
		}
	}
	require.Zero(t, r.Buffered())
	return first
}

// spent returns the microseconds that a server reports for the commands of
// loaders, including the commands that their scripts call.
func spent(t testing.TB, rdb redis.UniversalClient) (us float64) {
	t.Helper()
	info, err := rdb.Info(context.Background(), "commandstats").Result()
	require.NoError(t, err)
	for _, name := range []string{"get", "evalsha", "ssubscribe", "sunsubscribe"} {
		_, rest, found := strings.Cut(info, "cmdstat_"+name+":")
		if !found {
			continue
		}
		_, rest, _ = strings.Cut(rest, "usec=")
		number, _, _ := strings.Cut(rest, ",")
		n, err := strconv.ParseFloat(number, 64)
		require.NoError(t, err)
		us += n
	}
	return us
}
