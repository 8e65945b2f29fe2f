//go:build !race

package counter_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/counter"
)

// It does not run under the race detector, which allocates too.
func TestBufferAdd_AllocatesNothing(t *testing.T) {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = rdb.Close() })
	c, err := counter.New(rdb, counter.Spec[int]{Key: "a:{id}", TTL: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(t.Context()) })
	b := newBuffer(t, c, counter.BufferOptions{Every: time.Hour})
	for range 10_000 { // until every shard has the key
		require.NoError(t, b.Inc(1))
	}
	require.Zero(t, testing.AllocsPerRun(1000, func() { _ = b.Inc(1) }))
}
