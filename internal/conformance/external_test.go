package conformance

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// TestExternalServer_DoesEverything runs every row against the server of
// CACHEX_REDIS, redis://user:password@host:port, or rediss:// for TLS, with
// ?cluster=1 for a Cluster. All keys have one random prefix and are deleted in the
// end. No row sends FLUSHALL, FLUSHDB, CONFIG or DEBUG, which managed services
// refuse.
func TestExternalServer_DoesEverything(t *testing.T) {
	t.Parallel()
	address := os.Getenv("CACHEX_REDIS")
	if address == "" {
		t.Skip("CACHEX_REDIS=redis://host:port runs it against that server")
	}
	runExternal(t, address)
}

func TestExternalServer_NeedsNoCommandOfAdministrators(t *testing.T) {
	t.Parallel()
	t.Run("standalone", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, "--rename-command", "CONFIG", "", "--rename-command", "DEBUG", "",
			"--rename-command", "FLUSHALL", "", "--rename-command", "FLUSHDB", "")
		rdb := server.Client(nil)
		require.NoError(t, rdb.Set(t.Context(), "foreign", "value", 0).Err())
		t.Run("rows", func(t *testing.T) { runExternal(t, "redis://"+server.Addr()) })
		keys, err := rdb.Keys(t.Context(), "*").Result()
		require.NoError(t, err)
		require.Len(t, keys, 1, "it leaves keys behind, or deletes those of others")
	})
	t.Run("Cluster", func(t *testing.T) {
		t.Parallel()
		cluster := redistest.StartCluster(t, 3)
		rdb := cluster.Client(nil)
		require.NoError(t, rdb.Set(t.Context(), "foreign", "value", 0).Err())
		t.Run("rows", func(t *testing.T) { runExternal(t, "redis://"+rdb.Options().Addrs[0]+"?cluster=1") })
		n, err := rdb.DBSize(t.Context()).Result()
		require.NoError(t, err)
		require.EqualValues(t, 1, n, "it leaves keys behind, or deletes those of others")
	})
}

// runExternal runs all rows with two clients of the server at the address.
func runExternal(t *testing.T, address string) {
	t.Helper()
	at, err := url.Parse(address)
	require.NoError(t, err)
	query := at.Query()
	isCluster := query.Get("cluster") == "1"
	query.Del("cluster") // which go-redis does not know
	at.RawQuery = query.Encode()
	open := func() redis.UniversalClient {
		if isCluster {
			o, err := redis.ParseClusterURL(at.String())
			require.NoError(t, err)
			o.ReadTimeout = cmp.Or(o.ReadTimeout, patience)
			return redis.NewClusterClient(o)
		}
		o, err := redis.ParseURL(at.String())
		require.NoError(t, err)
		o.ReadTimeout = cmp.Or(o.ReadTimeout, patience)
		return redis.NewClient(o)
	}
	prefix := "cachex-test-" + rand.Text() + ":"
	a, b := open(), open()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience) // t.Context has ended
		defer cancel()
		require.NoError(t, deleteAll(ctx, a, "*"+prefix+"*"))
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
	})
	require.NoError(t, a.Ping(t.Context()).Err(), "no server answers at the address of CACHEX_REDIS")
	runRows(t, topology{name: "external", prefix: prefix}, a, b)
}

// deleteAll deletes the keys that match the pattern, on each master.
func deleteAll(ctx context.Context, rdb redis.UniversalClient, pattern string) error {
	on := func(ctx context.Context, master *redis.Client) error {
		keys := master.Scan(ctx, 0, pattern, 1000).Iterator()
		for keys.Next(ctx) {
			if err := master.Unlink(ctx, keys.Val()).Err(); err != nil {
				return fmt.Errorf("delete %s: %w", keys.Val(), err)
			}
		}
		return keys.Err()
	}
	if cluster, ok := rdb.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, on)
	}
	return on(ctx, rdb.(*redis.Client))
}
