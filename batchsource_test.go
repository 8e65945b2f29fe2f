package cachex

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/redistest"
)

// Who drives a batch.Reading may be another than a Batch, and ask twice: by then, its
// answers may be those of somebody else.
func TestBatchRead_AnswersOnce(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, string]{Key: "k:{id}", TTL: time.Hour})
		require.NoError(t, c.SetMany(t.Context(), map[int]string{1: "one", 2: "two"}))
		var got []string
		r := c.BatchRead(t.Context(), []int{1, 2}, func(_ int, v string, err error) {
			require.NoError(t, err)
			got = append(got, v)
		})
		p := rdb.Pipeline()
		r.Ask(t.Context(), p)
		_, err := p.Exec(t.Context())
		require.NoError(t, err)
		for range 2 {
			r.Answer(t.Context(), err)
			require.Equal(t, []string{"one", "two"}, got)
		}
	})
}

func TestBatchRead_GivesEachKeyItsOwnErrorWhenCtxEndsBetweenChunks(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[string, string]{Key: "k:{id}", MaxKeys: 2})
		ctx, cancel := context.WithCancel(t.Context())
		errs := make([]error, 4)
		r := c.BatchRead(ctx, []string{"a", "b", strings.Repeat("x", key.MaxLen), "c"}, func(i int, _ string, err error) { errs[i] = err })
		p := rdb.Pipeline()
		r.Ask(ctx, p)
		_, _ = p.Exec(ctx) // redis.Nil: the keys are not there
		cancel()
		r.Answer(ctx, nil)
		require.ErrorIs(t, errs[2], key.ErrTooLong)
		require.ErrorIs(t, errs[3], context.Canceled)
		require.NotErrorIs(t, errs[3], key.ErrTooLong)
	})
}
