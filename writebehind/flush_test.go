package writebehind

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
)

func TestWhatWasAddedIsPersistedOnceItIsFlushed(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		e := engine(t, rdb, options(t, d, Sum))
		ctx := bounded(t)
		for id, deltas := range map[string][]int64{
			"a": {1, 2, 3}, "b": {-5}, "#t0": {7}, "=x": {8}, "": {9}, "both": {1, -1},
			"large": {1 << 53, 1}, "largest": {math.MaxInt64}, "least": {math.MinInt64},
		} {
			for _, delta := range deltas {
				require.NoError(t, e.Add(ctx, id, delta))
			}
		}
		require.Zero(t, d.commits)
		require.NoError(t, e.Flush(ctx))
		require.Equal(t, map[string]int64{
			"a": 6, "b": -5, "#t0": 7, "=x": 8, "": 9, "both": 0,
			"large": 1<<53 + 1, "largest": math.MaxInt64, "least": math.MinInt64,
		}, d.sums)
		require.Equal(t, 1, d.commits)

		require.NoError(t, e.Flush(ctx))
		require.Equal(t, 1, d.commits, "there was nothing to persist")
		require.NoError(t, e.Add(ctx, "a", 1))
		require.NoError(t, e.Flush(ctx))
		require.EqualValues(t, 7, d.sum("a"))
		s := e.Stats()
		require.EqualValues(t, 2, s.Batches)
		require.EqualValues(t, 10, s.Persisted)
	})
}

func TestOfTwoValuesTheLastOneIsPersisted(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		e := engine(t, rdb, options(t, d, Last))
		ctx := bounded(t)
		require.NoError(t, e.Put(ctx, "a", []byte("old")))
		require.NoError(t, e.Put(ctx, "a", []byte("new\x00\xff")))
		require.NoError(t, e.Put(ctx, "empty", nil))
		require.NoError(t, e.Flush(ctx))
		require.Equal(t, map[string]string{"a": "new\x00\xff", "empty": ""}, d.values)
	})
}

// The embedded server lets counts overflow.
func TestACountThatWouldLeaveInt64IsRefusedAndChangesNothing(t *testing.T) {
	t.Parallel()
	d := newDatabase()
	e := engine(t, redistest.Shared(t).Client(nil), options(t, d, Sum))
	ctx := bounded(t)
	require.NoError(t, e.Add(ctx, "a", math.MaxInt64))
	err := e.Add(ctx, "a", 1)
	require.ErrorIs(t, err, ErrOverflow)
	require.NotErrorIs(t, err, ErrOutcomeUnknown)
	require.NoError(t, e.Flush(ctx))
	require.Equal(t, int64(math.MaxInt64), d.sum("a"))
}

func TestABatchIsBoundedInIDsAndInBytes(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		const ids = 1234
		ctx := bounded(t)
		d := newDatabase()
		o := options(t, d, Sum)
		o.MaxBatch = 100
		e := engine(t, rdb, o)
		pipe := rdb.Pipeline()
		for i := range ids {
			pipe.HIncrBy(ctx, e.Keys(0).Pending, strconv.Itoa(i), int64(i))
		}
		pipe.HSet(ctx, e.Keys(0).Pending, "#t0", 1)
		_, err := pipe.Exec(ctx)
		require.NoError(t, err)
		require.NoError(t, e.Flush(ctx))
		require.Len(t, d.sums, ids)
		for i := range ids {
			require.EqualValues(t, i, d.sum(strconv.Itoa(i)))
		}
		require.Equal(t, 13, d.commits)
		require.Zero(t, rdb.Exists(ctx, e.Keys(0).Pending).Val())

		d = newDatabase()
		o = options(t, d, Last)
		o.MaxBytes = 2500
		e = engine(t, rdb, o)
		for i := range 10 {
			require.NoError(t, e.Put(ctx, strconv.Itoa(i), make([]byte, 1000)))
		}
		require.NoError(t, e.Put(ctx, "large", make([]byte, 10_000)))
		require.NoError(t, e.Flush(ctx))
		require.Len(t, d.values, 11)
		require.GreaterOrEqual(t, d.commits, 6)
		require.LessOrEqual(t, d.commits, 7) // the large one may come among the others
	})
}

func TestABatchThatFailsStaysAndOthersGoOn(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		o := options(t, d, Sum)
		o.Buckets = 2
		sick := errors.New("sick")
		var mu sync.Mutex
		var told []error // guarded by mu
		o.Notify = func(err error) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, err)
		}
		d.fail(func(b ledger.Batch) error {
			if b.Bucket == 1 {
				return sick
			}
			return nil
		})
		e := engine(t, rdb, o)
		ctx := bounded(t)
		byBucket := map[int]string{}
		for i := 0; len(byBucket) < 2; i++ {
			id := fmt.Sprint("id", i)
			if byBucket[e.Bucket(id)] == "" {
				byBucket[e.Bucket(id)] = id
				require.NoError(t, e.Add(ctx, id, 5))
			}
		}
		err := e.Flush(ctx)
		require.ErrorIs(t, err, sick)
		require.ErrorContains(t, err, "1 of 2 buckets")
		require.EqualValues(t, 5, d.sum(byBucket[0]))
		require.Zero(t, d.sum(byBucket[1]))
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, told, 1)
		require.ErrorIs(t, told[0], sick)
		backlog, err := e.Backlog(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 1, backlog.InFlight)
		require.Equal(t, 1, backlog.Buckets)
		require.EqualValues(t, 1, e.Stats().Failures)

		// Later writes are not mixed with the batch that has failed.
		require.NoError(t, e.Add(ctx, byBucket[1], 2))
		d.fail(nil)
		require.NoError(t, e.Flush(ctx))
		require.EqualValues(t, 7, d.sum(byBucket[1]))
		require.EqualValues(t, 1, e.Stats().Replays)
	})
}

// Without a ledger too, if only the acknowledgement fails, this process does
// not persist the batch again.
func TestAnAcknowledgementThatFailsIsAllThatIsTriedAgain(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		d.naive = true
		e := engine(t, rdb, options(t, d, Sum))
		ctx := bounded(t)
		require.NoError(t, e.Add(ctx, "x", 5))
		cut := new(redistest.Faults)
		rdb.AddHook(cut)
		cut.Add(redistest.Fault{Match: func(cmd redis.Cmder) bool {
			return cmd.Name() == "evalsha" && stepNames[cmd.Args()[1].(string)] == "ack"
		}})
		require.Error(t, e.Flush(ctx))
		require.EqualValues(t, 5, d.sum("x"))
		require.NoError(t, e.Flush(ctx))
		require.EqualValues(t, 5, d.sum("x"))
		require.Equal(t, 1, d.commits)
		require.EqualValues(t, 1, e.Stats().Persisted)
	})
}
