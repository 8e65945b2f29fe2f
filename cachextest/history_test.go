package cachextest_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/cachextest"
)

// naive is hand-written cache-aside: it stores every value that it loads, even
// if the key was deleted meanwhile.
func naive(rdb *redis.Client, db *cachextest.Source[int, int64]) cachextest.Repository {
	return cachextest.Repository{
		Read: func(ctx context.Context, key int) (int64, error) {
			version, err := rdb.Get(ctx, strconv.Itoa(key)).Int64()
			if err != redis.Nil {
				return version, err
			}
			version, _ = db.Value(key)
			time.Sleep(100 * time.Microsecond) // as a database does
			return version, rdb.Set(ctx, strconv.Itoa(key), version, time.Minute).Err()
		},
		Write: func(ctx context.Context, key int, version int64) error {
			db.Put(key, version)
			return rdb.Del(ctx, strconv.Itoa(key)).Err()
		},
	}
}

// cached does the same with cachex.
func cached(t *testing.T, rdb *redis.Client, db *cachextest.Source[int, int64]) cachextest.Repository {
	c := cachex.Must(cachex.New(rdb, cachex.Spec[int, int64]{Key: "rows:{id}", TTL: time.Minute, Up: db.Up}))
	t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
	return cachextest.Repository{
		Read: func(ctx context.Context, key int) (int64, error) {
			version, err := c.Get(ctx, key)
			if errors.Is(err, cachex.ErrNotFound) {
				err = nil
			}
			return version, err
		},
		Write: func(ctx context.Context, key int, version int64) error {
			db.Put(key, version)
			return c.Delete(ctx, key)
		},
	}
}

func TestHistory_FindsOutACacheWithoutFences(t *testing.T) {
	t.Parallel()
	server, db := cachextest.Start(t), cachextest.NewSource[int, int64]()
	fault := verdict(t, func(t testing.TB) {
		cachextest.History{Operations: 1_000_000}.Require(t, naive(server.Client(), db), naive(server.Client(), db))
	})
	require.Regexp(t, `^cachextest: a read of key \d that began after version \d+ was written has version \d+\n\t\[\d+, \d+\] process \d (reads|writes)`, fault)
}

func TestHistory_FindsNoFaultInCachex(t *testing.T) {
	t.Parallel()
	server, db := cachextest.Start(t), cachextest.NewSource[int, int64]()
	cachextest.History{Operations: 2000}.Require(t, cached(t, server.Client(), db), cached(t, server.Client(), db))
}

func TestHistory_FindsOutVersionsFromNowhereAndReadsThatFailOrPanic(t *testing.T) {
	t.Parallel()
	nowhere := cachextest.Repository{
		Read:  func(context.Context, int) (int64, error) { return 1 << 40, nil },
		Write: func(context.Context, int, int64) error { return nil },
	}
	require.Contains(t, verdict(t, func(t testing.TB) { cachextest.History{Operations: 100}.Require(t, nowhere) }), "is the last that was written")
	broken := cachextest.Repository{
		Read:  func(context.Context, int) (int64, error) { return 0, errors.New("broken") },
		Write: func(context.Context, int, int64) error { return errors.New("broken") },
	}
	require.Equal(t, "cachextest: no read has succeeded: broken", verdict(t, func(t testing.TB) { cachextest.History{Operations: 100}.Require(t, broken) }))
	panics := cachextest.Repository{
		Read:  func(context.Context, int) (int64, error) { panic("boom") },
		Write: func(context.Context, int, int64) error { return nil },
	}
	require.Contains(t, verdict(t, func(t testing.TB) { cachextest.History{Operations: 100}.Require(t, panics) }), "boom")
	unsure := cachextest.Repository{ // a failed write may have stored its version or not
		Read:  func(context.Context, int) (int64, error) { return 0, nil },
		Write: func(context.Context, int, int64) error { return errors.New("broken") },
	}
	require.Empty(t, verdict(t, func(t testing.TB) { cachextest.History{Operations: 100}.Require(t, unsure) }))
}
