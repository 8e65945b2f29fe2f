package sizes

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// keysRead is a hook that counts the keys that each round trip reads.
type keysRead struct {
	mu    sync.Mutex
	trips []int // guarded by mu
}

func (k *keysRead) DialHook(next redis.DialHook) redis.DialHook { return next }

func (k *keysRead) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		k.note(cmd)
		return next(ctx, cmd)
	}
}

func (k *keysRead) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		k.note(cmds...)
		return next(ctx, cmds)
	}
}

func (k *keysRead) note(cmds ...redis.Cmder) {
	n := 0
	for _, cmd := range cmds {
		switch cmd.Name() {
		case "get":
			n++
		case "mget":
			n += len(cmd.Args()) - 1
		}
	}
	if n > 0 {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.trips = append(k.trips, n)
	}
}

func (k *keysRead) take() []int {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer func() { k.trips = nil }()
	return k.trips
}

// 500 values of 1 MB were one reply of 500 MB.
func TestGetMany_ReadsFewLargeValuesInARoundTrip(t *testing.T) {
	t.Parallel()
	const n, size = 40, 1 << 20
	for topology, start := range map[string]func(t *testing.T) redis.UniversalClient{
		"server":  func(t *testing.T) redis.UniversalClient { return redistest.Start(t).Client(nil) },
		"cluster": func(t *testing.T) redis.UniversalClient { return redistest.StartCluster(t, 3).Client(nil) },
	} {
		t.Run(topology, func(t *testing.T) {
			t.Parallel()
			rdb := start(t)
			c := newCache(t, rdb, spec{})
			value := strings.Repeat("x", size)
			for id := range n {
				require.NoError(t, c.Set(t.Context(), id, value))
			}
			for range 3 { // it learns how large they are
				_, err := c.Get(t.Context(), 0)
				require.NoError(t, err)
			}
			hook := new(keysRead)
			rdb.AddHook(hook)
			for name, call := range map[string]func(context.Context, []int) (map[int]string, error){"GetMany": c.GetMany, "LookupMany": c.LookupMany} {
				got, err := call(t.Context(), numbers(0, n))
				require.NoError(t, err)
				require.Len(t, got, n)
				require.Equal(t, value, got[n-1])
				trips, sum := hook.take(), 0
				for _, keys := range trips {
					require.LessOrEqual(t, keys, 4, name)
					sum += keys
				}
				require.Equal(t, n, sum, name)
			}
		})
	}
}
