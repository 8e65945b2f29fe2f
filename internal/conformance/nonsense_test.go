package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// TestNonsense_IsNoSuccessAndNoPanic has every call be answered what no Redis answers.
// A call that loads returns what Up returns; no other takes nonsense for success.
func TestNonsense_IsNoSuccessAndNoPanic(t *testing.T) {
	t.Parallel()
	require.GreaterOrEqual(t, len(redistest.Nonsense), 50)
	for _, reply := range redistest.Nonsense {
		t.Run(fmt.Sprintf("%.40q", reply), func(t *testing.T) {
			t.Parallel()
			addr := redistest.StartNonsense(t, reply)
			for _, call := range publicCalls {
				err := answered(t, addr, call)
				switch {
				case call.loads:
					require.NoError(t, err, call.name)
				case errors.Is(err, errWrong):
					t.Errorf("%s returned %v", call.name, err)
				case err == nil && call.right != nil && !slices.Contains(call.right, firstReply(reply)):
					t.Errorf("%s took it for success", call.name)
				}
			}
		})
	}
}

// firstReply returns what the client takes for the reply, of two.
func firstReply(reply string) string {
	switch reply {
	case "$-1\r\n$-1":
		return "$-1"
	case ":1\r\n:1", "|1\r\n+a\r\n:1\r\n:1":
		return ":1"
	}
	return reply
}

// answered makes one call on a client of its own, which has not learnt yet that the
// server is not worth asking.
func answered(t *testing.T, addr string, call publicCall) error {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, PoolSize: 4, ReadTimeout: 100 * time.Millisecond})
	defer func() { _ = rdb.Close() }()
	do, end := call.make(t, rdb)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := do(ctx)
	require.NoError(t, ctx.Err(), "%s did not return", call.name)
	late, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_ = end(late) // what cannot be flushed is an error of Close
	return err
}
