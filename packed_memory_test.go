package cachex

import (
	"flag"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

var memoryEntries = flag.Int("memory-entries", 15_000, "how many entries the measurements of memory are made with")

// usedMemory returns the used_memory of INFO, asked on a new connection while there
// is no other: a connection takes up to 40 KB with its buffers, and how many a pool
// has depends on how busy the machine is.
func usedMemory(t *testing.T, server *redistest.Server) int64 {
	t.Helper()
	rdb := server.Client(nil)
	defer func() { _ = rdb.Close() }()
	require.NoError(t, rdb.Do(t.Context(), "client", "kill", "type", "normal", "skipme", "yes").Err())
	info, err := rdb.Info(t.Context(), "memory").Result()
	require.NoError(t, err)
	n, err := strconv.ParseInt(regexp.MustCompile(`used_memory:(\d+)`).FindStringSubmatch(info)[1], 10, 64)
	require.NoError(t, err)
	return n
}

// perEntry returns the memory and the keys that n entries take, which fill stores,
// for each.
func perEntry(t *testing.T, server *redistest.Server, rdb *redis.Client, n int, fill func(from, to int)) (bytes, keys float64) {
	t.Helper()
	require.NoError(t, rdb.Do(t.Context(), "flushall", "sync").Err()) // Valkey frees later by default
	fill(-1, 0)                                                       // the scripts
	before := usedMemory(t, server)
	for from := 0; from < n; from += 500 {
		fill(from, min(from+500, n))
	}
	used := usedMemory(t, server) - before
	size, err := rdb.DBSize(t.Context()).Result()
	require.NoError(t, err)
	return float64(used) / float64(n), float64(size) / float64(n)
}

// The ratios that docs/packed.md promises, on a Redis that is configured as it says.
func TestPacked_TakesLessThanHalfTheMemory(t *testing.T) {
	t.Parallel()
	n := *memoryEntries
	// Without a slow log, whose entries would be counted too.
	server := redistest.Start(t, "--hash-max-listpack-entries", "256", "--hash-max-listpack-value", "256", "--slowlog-log-slower-than", "-1")
	rdb := server.Client(nil)
	more := 0.0
	if info := rdb.Info(t.Context(), "server").Val(); strings.Contains(info, "valkey_version") || strings.Contains(info, "redis_version:8.") {
		more = 0.03 // docs/packed.md has the ratios of these servers, where a plain string takes less
	}
	for _, row := range []struct {
		size            int
		ranges, hashing float64 // of the memory that plain strings take, at most
	}{{40, 0.40, 0.42}, {110, 0.55, 0.57}} {
		value := make([]byte, row.size)
		plain, plainKeys := perEntry(t, server, rdb, n, func(from, to int) {
			_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
				for i := from; i < to; i++ {
					p.Set(t.Context(), fmt.Sprint("user:", i), value, time.Hour)
				}
				return nil
			})
			require.NoError(t, err)
		})
		caches := map[string]struct {
			c    *Cache[int, []byte]
			most float64
		}{
			"a key each": {newCache(t, rdb, Spec[int, []byte]{Key: "user:{id}", TTL: time.Hour}), 2},
			"by ranges":  {newCache(t, rdb, Spec[int, []byte]{Key: "user:{id}", TTL: time.Hour, Packed: 100}), row.ranges + more},
			"by a hash":  {newCache(t, rdb, Spec[int, []byte]{Key: "user:{id}", TTL: time.Hour, Packed: 100, Expected: n}), row.hashing + more},
		}
		for name, one := range caches {
			bytes, keys := perEntry(t, server, rdb, n, func(from, to int) {
				values := make(map[int][]byte)
				for i := from; i < to; i++ {
					values[i] = value
				}
				require.NoError(t, one.c.SetMany(t.Context(), values))
			})
			t.Logf("%d bytes, %s: %.1f B an entry, %.3f of the %.1f B of a string with a TTL; %.0f times fewer keys", row.size, name, bytes, bytes/plain, plain, plainKeys/keys)
			require.Less(t, bytes, one.most*plain, "%s, values of %d bytes", name, row.size)
			if name != "a key each" {
				require.Greater(t, plainKeys, 50*keys, "%s: keys", name)
			}
		}
	}
}
