package conformance

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// naive is a cache as it is often written: GET, load, SET. A value that was loaded
// before a deletion is stored after it.
type naive struct {
	rdb    *redis.Client
	prefix string
	up     func(context.Context, int) (string, error)
}

func (n naive) Get(ctx context.Context, key int) (string, error) {
	v, err := n.rdb.Get(ctx, fmt.Sprint(n.prefix, key)).Result()
	if err == redis.Nil {
		if v, err = n.up(ctx, key); err == nil {
			err = n.rdb.Set(ctx, fmt.Sprint(n.prefix, key), v, crowdTTL).Err()
		}
	}
	return v, err
}

func (n naive) Delete(ctx context.Context, keys ...int) error {
	for _, key := range keys {
		if err := n.rdb.Del(ctx, fmt.Sprint(n.prefix, key)).Err(); err != nil {
			return err
		}
	}
	return nil
}

func TestTheCheckerCatchesACacheWithoutALease(t *testing.T) {
	t.Parallel()
	c := &crowd{h: newHistory(time.Hour), stop: make(chan struct{})}
	prefix := redistest.Key(t)
	for range 2 {
		c.stores = append(c.stores, naive{redistest.Shared(t).Client(nil), prefix, c.up})
	}
	c.start(t)
	require.Eventually(t, func() bool { return c.h.verdict() != "" }, patience, time.Millisecond)
	close(c.stop)
	c.wg.Wait()
	require.Contains(t, c.h.verdict(), "deleted before the read began")
	require.Contains(t, c.h.verdict(), "load")
	t.Log(c.h.verdict())
}
