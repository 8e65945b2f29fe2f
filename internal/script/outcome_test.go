package script_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/script"
)

func TestACommandIsAnsweredIfItHasNoErrorOrOneOfRedis(t *testing.T) {
	t.Parallel()
	require.True(t, script.Answered(nil))
	require.True(t, script.Answered(redis.Nil))
	require.True(t, script.Answered(fmt.Errorf("wrapped: %w", redis.Nil)))
	require.False(t, script.Answered(io.EOF))
	require.False(t, script.Answered(context.DeadlineExceeded))
}
