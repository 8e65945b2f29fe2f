package collection

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/loader"
)

func TestMaxLoads_FreesTheSlotOfAnUpThatDoesNotReturn(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]func(){"panics": func() { panic("up") }, "exits": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
				calls := 0
				r := recent(t, rdb, RecentSpec[int, int]{
					Key: "r:{id}", MaxLoads: 2,
					Up: func(context.Context, int) ([]int, error) {
						if calls++; calls <= 5 {
							ends()
						}
						return []int{1}, nil
					},
				})
				for range 5 {
					_, err := r.Get(t.Context(), 1)
					p, panicked := errors.AsType[*loader.PanicError](err)
					require.True(t, panicked && p.Value == "up" || errors.Is(err, loader.ErrGoexit), "%v", err)
				}
				began := time.Now()
				v, err := r.Get(t.Context(), 1)
				require.NoError(t, err)
				require.Equal(t, []int{1}, v)
				require.Zero(t, time.Since(began))
			})
		})
	}
}

func TestMaxLoads_AdmitsAQueuedLoadThatARunningOneWaitsFor(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		goOn := make(chan struct{})
		var r *Recent[int, int]
		r = recent(t, rdb, RecentSpec[int, int]{
			Key: "r:{id}", MaxLoads: 1,
			Up: func(ctx context.Context, id int) ([]int, error) {
				if id == 2 {
					return []int{2}, nil
				}
				<-goOn
				return r.Get(ctx, 2)
			},
		})
		a := asking(t.Context(), &r.store, 1)
		synctest.Wait()
		b := asking(t.Context(), &r.store, 2)
		synctest.Wait()
		began := time.Now()
		close(goOn)
		require.Equal(t, answer[[]int]{[]int{2}, nil}, <-a)
		require.Equal(t, answer[[]int]{[]int{2}, nil}, <-b)
		require.Less(t, time.Since(began), time.Second)
	})
}

func TestGet_ReportsLoadsThatWaitForEachOther(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		goOn := make(chan struct{})
		var r *Recent[int, int]
		r = recent(t, rdb, RecentSpec[int, int]{
			Key: "r:{id}",
			Up: func(ctx context.Context, id int) ([]int, error) {
				<-goOn
				return r.Get(ctx, 3-id)
			},
		})
		began := time.Now()
		a, b := asking(t.Context(), &r.store, 1), asking(t.Context(), &r.store, 2)
		synctest.Wait()
		close(goOn)
		for _, ch := range []<-chan answer[[]int]{a, b} {
			require.ErrorIs(t, (<-ch).err, loader.ErrReentrant)
		}
		require.Zero(t, time.Since(began))
	})
}
