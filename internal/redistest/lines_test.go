package redistest

import (
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestLines_ExpireEndsReadsAndNoWrites(t *testing.T) {
	t.Parallel()
	ctx, lines, e := t.Context(), new(Lines), StartEmbedded(t)
	rdb := e.Client(func(o *redis.Options) { o.Dialer, o.MaxRetries, o.PoolSize = lines.Dial, -1, 1 })
	require.NoError(t, rdb.Ping(ctx).Err())
	lines.Expire()
	require.ErrorIs(t, rdb.Set(ctx, "a", "1", 0).Err(), os.ErrDeadlineExceeded)
	require.Eventually(t, func() bool { return e.Client(nil).Get(ctx, "a").Val() == "1" }, Patience, time.Millisecond)
	require.Equal(t, "1", rdb.Get(ctx, "a").Val(), "a connection that is dialed later")

	blocked := make(chan error)
	go func() { blocked <- rdb.BLPop(ctx, 0, "none").Err() }()
	require.Eventually(t, func() bool { return rdb.PoolStats().IdleConns == 0 }, Patience, time.Millisecond)
	lines.Expire()
	require.ErrorIs(t, <-blocked, os.ErrDeadlineExceeded, "a read under way")
}
