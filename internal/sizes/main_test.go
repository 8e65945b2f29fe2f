package sizes

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestMain(m *testing.M) {
	redistest.Register("shopper", shopper)
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

// patience bounds every wait in real time.
var patience = redistest.Patience

var errSource = errors.New("the source is down")

type (
	cache = cachex.Cache[int, string]
	spec  = cachex.Spec[int, string]
)

// newCache returns a cache whose values live for an hour, and which is closed when the
// test ends.
func newCache(t testing.TB, rdb redis.UniversalClient, s spec) *cache {
	t.Helper()
	s.TTL = time.Hour
	if s.Key == "" {
		s.Key = "k:{id}"
	}
	c, err := cachex.New(rdb, s)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience) // t.Context has ended
		defer cancel()
		require.NoError(t, c.Close(ctx), "a call or a load is left behind")
	})
	return c
}

// slowed returns one more client of the server of rdb, by which each round trip takes so
// long.
func slowed(t testing.TB, rdb *redis.Client, trip time.Duration) *redis.Client {
	t.Helper()
	opts := *rdb.Options()
	opts.PushNotificationProcessor = nil // which NewClient has set, and each client needs its own
	second := redis.NewClient(&opts)
	t.Cleanup(func() { _ = second.Close() })
	second.AddHook(slowLine{trip})
	return second
}

// A slowLine is a hook by which each round trip takes so long, of which the server gets
// the commands after half.
type slowLine struct{ trip time.Duration }

func (s slowLine) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s slowLine) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if opens(cmd) {
			return next(ctx, cmd)
		}
		time.Sleep(s.trip / 2)
		defer time.Sleep(s.trip / 2)
		return next(ctx, cmd)
	}
}

func (s slowLine) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if opens(cmds[0]) {
			return next(ctx, cmds)
		}
		time.Sleep(s.trip / 2)
		defer time.Sleep(s.trip / 2)
		return next(ctx, cmds)
	}
}

// opens reports whether a connection opens with cmd, which takes no time here.
func opens(cmd redis.Cmder) bool { return cmd.Name() == "hello" || cmd.Name() == "client" }

// numbers returns n numbers from first on.
func numbers(first, n int) []int {
	ids := make([]int, n)
	for i := range ids {
		ids[i] = first + i
	}
	return ids
}

// goods returns a value for each id.
func goods(word string, ids ...int) map[int]string {
	values := make(map[int]string, len(ids))
	for _, id := range ids {
		values[id] = fmt.Sprint(word, id)
	}
	return values
}
