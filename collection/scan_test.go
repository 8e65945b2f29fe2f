package collection

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// stuck is a server that answers each SSCAN with the same cursor.
type stuck struct{}

func (stuck) DialHook(next redis.DialHook) redis.DialHook { return next }

func (stuck) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if scan, ok := cmd.(*redis.ScanCmd); ok {
			scan.SetVal(nil, 1)
			return nil
		}
		return next(ctx, cmd)
	}
}

func (stuck) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestSet_GetEndsIfTheCursorDoesNotAdvance(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		rdb.AddHook(stuck{})
		s, err := NewSet(rdb, SetSpec[int, string]{Key: redistest.Key(t) + ":{id}", TTL: time.Hour})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err = s.Get(ctx, 1)
		require.ErrorIs(t, err, errReply)
		require.NoError(t, s.Close(ctx))
	})
}
