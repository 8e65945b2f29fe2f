package sizes

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/gate"
	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/writebehind"
)

func packed(t *testing.T, rdb *redis.Client) []load {
	var all []load
	for _, n := range []int{128, 1024} {
		c := newCache(t, rdb, spec{Key: fmt.Sprint("packed", n, ":{id}"), Packed: n})
		all = append(all, load{fmt.Sprint("GetMany of a Packed hash of ", n), func(t *testing.T, ctx context.Context) {
			require.NoError(t, c.SetMany(ctx, goods("a value of the usual length ", numbers(0, n)...)))
		}, func(t *testing.T, ctx context.Context) {
			values, err := c.GetMany(ctx, numbers(0, n))
			require.NoError(t, err)
			require.Len(t, values, n)
		}})
	}
	large := newCache(t, rdb, spec{Key: "packed-large:{id}", Packed: 1024})
	return append(all, load{"GetMany of a Packed hash of 1024 large ones", func(t *testing.T, ctx context.Context) {
		values := goods("", numbers(0, 1024)...)
		for id := range values {
			values[id] = strings.Repeat("x", 16_000)
		}
		require.NoError(t, large.SetMany(ctx, values))
	}, func(t *testing.T, ctx context.Context) {
		values, err := large.GetMany(ctx, numbers(0, 1024))
		require.NoError(t, err)
		require.Len(t, values, 1024)
	}})
}

// entries are those of caches, of as many bytes as any server takes. How long a value is
// is no matter of a Spec.
func entries(t *testing.T, rdb *redis.Client) []load {
	var all []load
	for name, s := range map[string]spec{
		"plain":  {Key: "entry:{id}", StaleWhileRevalidate: time.Hour},
		"packed": {Key: "entry-packed:{id}", Packed: 128, StaleWhileRevalidate: time.Hour},
	} {
		value := strings.Repeat("x", 1<<20-1000)
		if s.Packed > 0 {
			value = value[:16_000] // the most
		}
		s.Up = func(context.Context, int) (string, error) { return value, nil }
		c := newCache(t, rdb, s)
		away := func(t *testing.T, ctx context.Context) { require.NoError(t, c.Delete(ctx, numbers(0, 10)...)) }
		all = append(all,
			load{"GetMany, " + name, away, func(t *testing.T, ctx context.Context) {
				_, err := c.GetMany(ctx, numbers(0, 10))
				require.NoError(t, err)
			}},
			load{"SetMany, " + name, nil, func(t *testing.T, ctx context.Context) {
				require.NoError(t, c.SetMany(ctx, map[int]string{1: value, 2: value}))
			}},
			load{"Expire, " + name, nil, func(t *testing.T, ctx context.Context) { require.NoError(t, c.Expire(ctx, 1, 2)) }},
			load{"Delete, " + name, nil, away})
	}
	return all
}

func counts(t *testing.T, rdb *redis.Client) []load {
	up := func(context.Context, int) (int64, error) { return 7, nil }
	down := func(context.Context, counter.Flush[int]) error { return nil }
	var all []load
	for name, s := range map[string]counter.Spec[int]{
		"":            {Key: "count:{id}", TTL: time.Hour, Up: up},
		", persisted": {Name: "counts", Key: "count-down:{id}", TTL: time.Hour, Up: up, Down: down, DownValues: true, FlushEvery: time.Hour},
	} {
		c := cachex.Must(counter.New(rdb, s))
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			require.NoError(t, c.Close(ctx))
		})
		all = append(all, load{"Counter" + name, nil, func(t *testing.T, ctx context.Context) {
			var together sync.WaitGroup
			for id := range 500 {
				together.Go(func() { _, err := c.Inc(ctx, id); require.NoError(t, err) })
			}
			together.Wait()
			for i := range 200 { // those of a count are remembered
				_, err := c.AddOnce(ctx, 1, 1, fmt.Sprint("operation ", i))
				require.NoError(t, err)
			}
			_, err := c.GetMany(ctx, numbers(0, 1000))
			require.NoError(t, err)
			require.NoError(t, c.Set(ctx, 1, 5))
			require.NoError(t, c.Flush(ctx))
			require.NoError(t, c.Delete(ctx, numbers(0, 1000)...))
		}})
	}
	return all
}

func gates(t *testing.T, rdb *redis.Client) []load {
	g := cachex.Must(gate.New(rdb, gate.Spec[int]{Key: "gate:{id}", Every: time.Hour}))
	return []load{{"Gate", nil, func(t *testing.T, ctx context.Context) {
		require.NoError(t, g.Reset(ctx, 1))
		require.ErrorIs(t, g.Do(ctx, 1, func(context.Context) error { return errSource }), errSource) // and it is reopened
		ok, _, err := g.Try(ctx, 1)
		require.NoError(t, err)
		require.True(t, ok)
	}}}
}

// behind is write-behind with batches as large as they may be.
func behind(t *testing.T, rdb *redis.Client) []load {
	const n = 2 * mostBatch
	c := newCache(t, rdb, spec{
		Key: "behind:{id}", WriteBehind: time.Hour, DownMany: func(context.Context, map[int]string) error { return nil },
		WriteBehindOptions: writebehind.Options{Buckets: 1, MaxBatch: mostBatch},
	})
	keys := []string{"{park}%pending", "{park}%inflight", "{park}%refused", "{park}%unread", "{park}%parked"}
	on := func(s *script.Script, args ...any) *script.Call {
		return &script.Call{Script: s, Key: keys[0], More: keys[1:], Args: args}
	}
	return append(aside(t, rdb), []load{
		{"write-behind, a flush", func(t *testing.T, ctx context.Context) {
			require.NoError(t, c.SetMany(ctx, goods("set", numbers(0, n)...)))
		}, func(t *testing.T, ctx context.Context) { require.NoError(t, c.Flush(ctx)) }},
		{"write-behind, a batch that is taken", func(t *testing.T, ctx context.Context) {
			require.NoError(t, rdb.Unlink(ctx, keys...).Err())
			calls := make([]*script.Call, 0, 2*n)
			for id := range n {
				calls = append(calls, &script.Call{Script: script.PendAdd, Key: keys[0], Args: []any{fmt.Sprint("id", id), 1}},
					&script.Call{Script: script.PendPut, Key: "{put}%pending", Args: []any{fmt.Sprint("id", id), "value"}})
			}
			convoy.Run(ctx, rdb, calls)
			require.NoError(t, calls[0].Err)
		}, func(t *testing.T, ctx context.Context) {
			for range n {
				call := on(script.TakeBatch, "token", "me", 60_000, mostBatch, "", "", 100)
				require.NoError(t, call.Run(ctx, rdb))
				if taken := call.Reply.([]any); taken[0] != "F" {
					require.Equal(t, "T", taken[0])
					require.EqualValues(t, mostBatch, taken[6])
					break
				}
			}
		}},
	}...)
}

// mostBatch is the most ids of a batch.
const mostBatch = 1000
