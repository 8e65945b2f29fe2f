package counter_test

import (
	"context"
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

// The database commits a batch and returns an error, so a count that is
// restored meanwhile has the batch twice. The acknowledgement of the batch
// corrects it.
func TestRestore_OfACountInAFailingBatchIsUndoneByTheAcknowledgement(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		tb, lies, applied := newTable(map[int]int64{}), true, false
		c := newCounter(t, rdb, counter.Spec[int]{Up: tb.up, FlushEvery: patience * 100, Down: func(ctx context.Context, f counter.Flush[int]) error {
			if lies || !applied { // the ledger knows the batch
				if err := tb.down(ctx, f); err != nil {
					return err
				}
			}
			if applied = lies; lies {
				return errors.New("the reply to COMMIT is lost")
			}
			return nil
		}})
		c.SetPatience(soon)
		for _, id := range []int{1, 2} { // of two buckets, or of one
			lies, applied = true, false
			_, err := c.Add(ctx, id, 5)
			require.NoError(t, err)
			require.Error(t, c.Flush(ctx))
			require.Equal(t, int64(5), tb.get(id))
			require.NoError(t, c.Delete(ctx, id))
			requireCount(t, c, id, 10)
			n, err := c.Add(ctx, id, 1)
			require.NoError(t, err)
			require.Equal(t, int64(11), n)
			lies = false
			require.NoError(t, c.Flush(ctx))
			require.Equal(t, int64(6), tb.get(id))
			requireCount(t, c, id, 6)
		}
	})
}

// Another process persists a batch during each load, so the last load stores a
// count that may be wrong. The next batch corrects it.
func TestRestore_OfACountThatIsPersistedAllTheTimeIsUndoneByTheNextBatch(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		tb := newTable(map[int]int64{})
		spec := counter.Spec[int]{Key: redistest.Key(t) + ":{id}", Up: tb.up, Down: tb.down, FlushEvery: patience * 100}
		other := newCounter(t, again(t, rdb), spec)
		buffer, err := counter.NewBuffer(other, counter.BufferOptions{Every: patience * 100})
		require.NoError(t, err)
		flush := func() error { // of additions without a count
			return errors.Join(buffer.Add(1, 1), buffer.Flush(ctx), other.Flush(ctx))
		}
		spec.Up = func(ctx context.Context, id int) (int64, error) {
			n, err := tb.up(ctx, id)
			return n, errors.Join(err, flush())
		}
		c := newCounter(t, rdb, spec)
		n, err := c.Get(ctx, 1)
		require.NoError(t, err)
		require.Less(t, n, tb.get(1))
		require.NoError(t, flush())
		requireCount(t, other, 1, tb.get(1))
	})
}
