package dbtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/writebehind"
)

// counterOf returns a counter of one release, whose keys are K. All releases
// share name and the table.
func counterOf[K comparable](t *testing.T, db *base, shared *redis.Client, name string, every time.Duration, down func() error) *counter.Counter[K] {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: shared.Options().Addr, ReadTimeout: redistest.Patience})
	t.Cleanup(func() { _ = rdb.Close() })
	c, err := counter.New(rdb, counter.Spec[K]{
		Key: name + ":{id}", TTL: time.Hour, FlushEvery: every, WriteBehindOptions: writebehind.Options{Buckets: 2},
		Up: func(ctx context.Context, id K) (int64, error) { return db.up(ctx, fmt.Sprint(id)) },
		Down: func(ctx context.Context, f counter.Flush[K]) error {
			if err := down(); err != nil {
				return err
			}
			return db.l.Once(ctx, f.Batch, func(tx *sql.Tx) error {
				for id, delta := range f.Deltas {
					if _, err := tx.ExecContext(ctx, `INSERT INTO views (id, n) VALUES ($1, $2)
						ON CONFLICT (id) DO UPDATE SET n = views.n + excluded.n`, fmt.Sprint(id), delta); err != nil {
						return err
					}
				}
				return nil
			})
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = c.Close(ctx)
	})
	return c
}

func never() error { return nil }

// requireUnread fails unless err says that want ids cannot be read.
func requireUnread(t *testing.T, err error, want int64) {
	t.Helper()
	aside, ok := errors.AsType[*writebehind.AsideError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, writebehind.AsideError{Unread: want}, *aside)
}

// A release with text keys is replaced by one with numeric keys, while counts
// are pending and in flight. The new release can read some of them, and its own
// counts are persisted. The others wait, and are persisted when the old release
// is back.
func TestCounter_ADeployFromTextToNumbersHoldsUpNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		rdb := redistest.Start(t).Client(nil)
		name := redistest.Key(t)
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		want := map[string]int64{}

		// Both buckets have a batch in flight: the database has one of them and
		// lacks the other.
		errDown := errors.New("the database is away")
		before := counterOf[string](t, db, rdb, name, 24*time.Hour, func() error { return errDown })
		texts := []string{"a", "b", "x y", "9z", "%", "42 "}
		for _, id := range append(texts, "1", "2", "3") {
			want[id] += 7
			_, err := before.Add(ctx, id, 7)
			require.NoError(t, err)
		}
		require.ErrorIs(t, before.Flush(ctx), errDown)
		for _, id := range append(texts, "3", "4") {
			want[id] += 100
			_, err := before.Add(ctx, id, 100)
			require.NoError(t, err)
		}

		after := counterOf[int64](t, db, rdb, name, 24*time.Hour, never)
		for i := range 450 {
			id := int64(1 + i%50)
			want[fmt.Sprint(id)]++
			_, err := after.Inc(ctx, id)
			require.NoError(t, err)
			if i%90 == 0 {
				requireUnread(t, after.Flush(ctx), int64(len(texts)))
			}
		}
		requireUnread(t, after.Flush(ctx), int64(len(texts)))
		requireUnread(t, after.Close(ctx), int64(len(texts)))
		for id := range 50 {
			require.Equal(t, want[fmt.Sprint(id+1)], db.sum(t, fmt.Sprint(id+1)), "persisted of %d", id+1)
		}
		b := after.Stats().WriteBehind
		require.Zero(t, b.Forks)

		back := counterOf[string](t, db, rdb, name, 24*time.Hour, never)
		for _, id := range texts {
			n, err := back.Get(ctx, id)
			require.NoError(t, err)
			require.Equal(t, want[id], n)
		}
		require.NoError(t, back.Flush(ctx))
		for id, n := range want {
			require.Equal(t, n, db.sum(t, id), "persisted of %q", id)
			require.NoError(t, back.Delete(ctx, id))
			restored, err := back.Get(ctx, id)
			require.NoError(t, err)
			require.Equal(t, n, restored, "restored of %q", id)
		}
		require.Zero(t, back.Stats().WriteBehind.Forks)
		require.NoError(t, back.Close(ctx))
	})
}

// Two releases of a counter count and flush at the same time. Whichever release
// takes a batch, every count is persisted once.
func TestCounter_TwoReleasesSideBySide(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		rdb := redistest.Start(t).Client(nil)
		name := redistest.Key(t)
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		texts := counterOf[string](t, db, rdb, name, 20*time.Millisecond, never)
		numbers := counterOf[int64](t, db, rdb, name, 20*time.Millisecond, never)
		const each = 300
		var wg sync.WaitGroup
		errs := make([]error, 2)
		wg.Go(func() {
			for i := range each {
				_, err := texts.Inc(ctx, []string{"a", "b", "1", "2"}[i%4])
				errs[0] = errors.Join(errs[0], err)
			}
		})
		wg.Go(func() {
			for i := range each {
				_, err := numbers.Inc(ctx, int64(1+i%2))
				errs[1] = errors.Join(errs[1], err)
			}
		})
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		_ = numbers.Close(ctx) // the other release persists the ids that it cannot read
		for err := texts.Flush(ctx); err != nil; err = texts.Flush(ctx) {
			require.NoError(t, ctx.Err(), "%v", err) // SQLite may be busy
			pause(ctx)
		}
		for id, n := range map[string]int64{"a": each / 4, "b": each / 4, "1": each * 3 / 4, "2": each * 3 / 4} {
			require.Equal(t, n, db.sum(t, id), "persisted of %q", id)
		}
		require.Zero(t, texts.Stats().WriteBehind.Forks)
		require.Zero(t, numbers.Stats().WriteBehind.Forks)
		require.NoError(t, texts.Close(ctx))
	})
}
