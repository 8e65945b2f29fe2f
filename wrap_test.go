package cachex

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// A cache that is only wrapped around functions has no Up when it is made.
func TestWrap_RemembersErrNotFound(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, string]{NotFoundTTL: time.Hour})
		loads := 0
		get := c.Wrap(func(context.Context, int) (string, error) { loads++; return "", ErrNotFound })
		for range 5 {
			_, err := get(t.Context(), 1)
			require.ErrorIs(t, err, ErrNotFound)
		}
		require.Equal(t, 1, loads)
	})
}

func TestWrap_HeedsSoftTimeoutAndEarlyRefresh(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, string]{
			TTL: time.Minute, Jitter: NoJitter, StaleIfError: time.Hour, SoftTimeout: time.Second, EarlyRefresh: 1,
		})
		took, value := time.Duration(0), "first"
		get := c.Wrap(func(context.Context, int) (string, error) { time.Sleep(took); return value, nil })
		_, err := get(t.Context(), 1)
		require.NoError(t, err)

		time.Sleep(2 * time.Minute)
		took, value = 10*time.Second, "second"
		began := time.Now()
		v, err := get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "first", v)
		require.Equal(t, time.Second, time.Since(began))
		time.Sleep(10 * time.Second)
		loads := c.Stats().Loads

		took = 0
		for range 100 { // a load of ten seconds begins about that long before the end
			time.Sleep(time.Minute / 100)
			v, err := get(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, "second", v)
			if c.Stats().Loads > loads {
				return
			}
		}
		require.Fail(t, "no reader has reloaded early")
	})
}

func TestGetMany_FailureOfOneKeyHasNoOutcome(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		seen := make(chan Result, 10)
		failed := errors.New("failed")
		c := newCache(t, rdb, Spec[int, string]{Observer: results(seen), Up: func(_ context.Context, id int) (string, error) {
			if id == 2 {
				return "", failed
			}
			return "one", nil
		}})
		how := Hit
		values, err := c.GetMany(WithOutcome(t.Context(), &how), []int{1, 2})
		require.ErrorIs(t, err, failed)
		require.Equal(t, map[int]string{1: "one"}, values)
		require.Zero(t, how)
		for len(seen) > 0 {
			if r := <-seen; r.Err != nil {
				require.Zero(t, r.Outcome)
			}
		}
	})
}

// results is an Observer that passes results on.
type results chan Result

func (results) Begin(ctx context.Context, _ Event) context.Context { return ctx }

func (s results) End(_ context.Context, _ Event, r Result) { s <- r }
