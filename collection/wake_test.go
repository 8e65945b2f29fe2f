package collection

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// A load runs in one process, and a reader in another, for each type and a
// cache. The reader is woken at the moment when the load ends, stored or
// failed.
func TestRestore_IsWokenWhenTheLoadOfAnotherProcessEnds(t *testing.T) {
	t.Parallel()
	const takes = 10*time.Second + 137*time.Millisecond
	type up = func(context.Context, int) error
	kinds := map[string]func(t *testing.T, rdb *redis.Client, up up) func(context.Context) error{
		"recent": func(t *testing.T, rdb *redis.Client, up up) func(context.Context) error {
			r := recent(t, rdb, RecentSpec[int, int]{Key: "r:{id}", Up: func(ctx context.Context, id int) ([]int, error) { return []int{1}, up(ctx, id) }})
			return func(ctx context.Context) error { _, err := r.Get(ctx, 1); return err }
		},
		"ranking": func(t *testing.T, rdb *redis.Client, up up) func(context.Context) error {
			r := ranking(t, rdb, RankingSpec[int, int]{Key: "r:{id}", Up: func(ctx context.Context, id int) ([]Scored[int], error) {
				return []Scored[int]{{Member: 1, Score: 1}}, up(ctx, id)
			}})
			return func(ctx context.Context) error { _, err := r.Get(ctx, 1); return err }
		},
		"set": func(t *testing.T, rdb *redis.Client, up up) func(context.Context) error {
			s := set(t, rdb, SetSpec[int, int]{Key: "r:{id}", Up: func(ctx context.Context, id int) ([]int, error) { return []int{1}, up(ctx, id) }})
			return func(ctx context.Context) error { _, err := s.Get(ctx, 1); return err }
		},
		"cache": func(t *testing.T, rdb *redis.Client, up up) func(context.Context) error {
			c, err := cachex.New(rdb, cachex.Spec[int, int]{Key: "r:{id}", TTL: time.Minute, Up: func(ctx context.Context, id int) (int, error) { return 1, up(ctx, id) }})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
			return func(ctx context.Context) error { _, err := c.Get(ctx, 1); return err }
		},
	}
	for kind, open := range kinds {
		for name, failure := range map[string]error{"is stored": nil, "fails": io.ErrUnexpectedEOF} {
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
					first := open(t, rdb, func(context.Context, int) error { time.Sleep(takes); return failure })
					loads := 0
					second := open(t, again(t, rdb), func(context.Context, int) error { loads++; return nil })
					failed := make(chan error, 1)
					go func() { failed <- first(t.Context()) }()
					synctest.Wait()
					began := time.Now()
					require.NoError(t, second(t.Context()))
					require.Equal(t, takes, time.Since(began))
					if failure == nil {
						require.NoError(t, <-failed)
						require.Zero(t, loads)
					} else {
						require.ErrorIs(t, <-failed, failure)
						require.Equal(t, 1, loads)
					}
				})
			})
		}
	}
}

// Writers recognise a lease that a reader waits for. A message is sent only if
// a reader waits.
func TestRestore_WritersKeepALeaseThatAReaderWaitsFor(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		heard := redistest.Subscribe(t, rdb, script.WakeChannel("r:1", "r:1"))
		defer func() { require.NoError(t, heard.Close()) }()
		messages := 0
		spec := RankingSpec[int, string]{Key: "r:{id}", Up: func(context.Context, int) ([]Scored[string], error) {
			time.Sleep(time.Second)
			return []Scored[string]{{Member: "a", Score: 1}}, nil
		}}
		first, second := ranking(t, rdb, spec), ranking(t, again(t, rdb), spec)
		for _, waits := range []bool{true, false} {
			a := asking(t.Context(), &first.store, 1)
			synctest.Wait()
			b := a
			if waits {
				b = asking(t.Context(), &second.store, 1)
				synctest.Wait()
				messages++
			}
			require.NoError(t, second.Set(t.Context(), 1, "b", 2))
			require.NoError(t, (<-a).err)
			if waits {
				require.NoError(t, (<-b).err)
			}
			has(t, &first.store, 1, []Scored[string]{{Member: "b", Score: 2}, {Member: "a", Score: 1}})
			require.NoError(t, first.Delete(t.Context(), 1))
		}
		for range messages {
			_, err := heard.ReceiveMessage(t.Context())
			require.NoError(t, err)
		}
		_, err := heard.ReceiveTimeout(t.Context(), time.Second)
		require.Error(t, err, "no more of them")
	})
}
