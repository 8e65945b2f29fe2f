package counter_test

import (
	"context"
	"errors"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

func newBuffer(t testing.TB, c *counter.Counter[int], o counter.BufferOptions) *counter.Buffer[int] {
	t.Helper()
	b, err := counter.NewBuffer(c, o)
	require.NoError(t, err)
	return b
}

// template returns the Key of a Counter without Down.
func template(c *counter.Counter[int]) string { return strings.TrimSuffix(c.Key(1), "1") + "{id}" }

// When the Counter is closed, the counts include all accepted additions, and no
// rejected ones.
func TestBuffer_IsExactWithConcurrentFlushesAndClose(t *testing.T) {
	t.Parallel()
	eachKind(t, map[int]int64{}, func(t *testing.T, c *counter.Counter[int], tb *table, rdb *redis.Client, down bool) {
		b := newBuffer(t, c, counter.BufferOptions{Every: time.Millisecond, MaxKeys: 1000})
		var taken [10]atomic.Int64
		var wg, flushers sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					switch err := b.Inc(i % 10); {
					case errors.Is(err, cachex.ErrClosed):
						return
					case errors.Is(err, counter.ErrFull):
					case err != nil:
						t.Error(err)
						return
					default:
						taken[i%10].Add(1)
					}
				}
			})
		}
		for range 2 {
			flushers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := b.Flush(t.Context()); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for b.Stats().Flushes < 20 {
			time.Sleep(time.Millisecond)
		}
		close(stop)
		flushers.Wait()
		require.NoError(t, c.Close(t.Context()))
		wg.Wait()
		require.ErrorIs(t, b.Inc(1), cachex.ErrClosed)
		require.Zero(t, b.Stats().Sums)
		spec := counter.Spec[int]{Key: template(c)}
		if down {
			for id := range taken {
				require.Equal(t, taken[id].Load(), tb.get(id), id)
			}
			return
		}
		second := newCounter(t, rdb, spec)
		for id := range taken {
			requireCount(t, second, id, taken[id].Load(), id)
		}
	})
}

// Close also restores missing counts before it adds to them.
func TestBufferClose_RestoresMissingCounts(t *testing.T) {
	t.Parallel()
	eachKind(t, map[int]int64{1: 100, 2: 200}, func(t *testing.T, c *counter.Counter[int], tb *table, rdb *redis.Client, down bool) {
		b := newBuffer(t, c, counter.BufferOptions{Every: time.Hour})
		require.NoError(t, b.Add(1, 5))
		require.NoError(t, b.Add(2, -5))
		require.NoError(t, c.Close(t.Context()))
		if down {
			require.Equal(t, []int64{105, 195}, []int64{tb.get(1), tb.get(2)})
			require.Zero(t, tb.loads.Load(), "for what is persisted, no count is restored")
			return
		}
		second := newCounter(t, rdb, counter.Spec[int]{Key: template(c), Up: tb.up})
		requireCount(t, second, 1, 105)
		requireCount(t, second, 2, 195)
	})
}

func TestBuffer_IsFullWithoutRedisAndSendsAllAfterwards(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		client, faults := again(t, rdb), new(redistest.Faults)
		client.AddHook(faults)
		c := newCounter(t, client, counter.Spec[int]{})
		away := redis.ErrPoolTimeout // nothing was sent
		faults.Add(redistest.Fault{Times: redistest.Always, Err: away})
		b := newBuffer(t, c, counter.BufferOptions{Every: time.Millisecond, MaxKeys: 10})
		taken := int64(0)
		for id := 0; ; id++ {
			err := b.Inc(id)
			if errors.Is(err, counter.ErrFull) {
				break
			}
			require.NoError(t, err)
			taken++
			require.Less(t, id, 1_000_000)
		}
		require.GreaterOrEqual(t, taken, int64(10))
		require.ErrorIs(t, b.Flush(t.Context()), away)
		require.Positive(t, b.Stats().Failures)
		require.Zero(t, b.Stats().Unknown)
		faults.Clear()
		deadline := time.Now().Add(patience)
		for b.Stats().Sums > 0 { // the test does not call Flush
			require.True(t, time.Now().Before(deadline))
			time.Sleep(time.Millisecond)
		}
		require.NoError(t, b.Flush(t.Context()))
		for id := range int(taken) {
			requireCount(t, c, id, 1, id)
		}
		requireCount(t, c, int(taken), 0)
		require.NoError(t, b.Inc(1), "there is room again")
	})
}

func TestBuffer_DoesNotResendSumsOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		client, faults := again(t, rdb), new(redistest.Faults)
		client.AddHook(faults)
		c := newCounter(t, client, counter.Spec[int]{})
		b := newBuffer(t, c, counter.BufferOptions{Every: time.Hour})
		require.NoError(t, b.Inc(1))
		require.NoError(t, b.Flush(t.Context()))
		require.NoError(t, b.Inc(1))
		faults.Add(redistest.Fault{Match: redistest.Named("evalsha", "eval"), Executed: true})
		require.ErrorIs(t, b.Flush(t.Context()), counter.ErrOutcomeUnknown)
		require.Equal(t, counter.BufferStats{Flushes: 2, Unknown: 1}, b.Stats())
		require.NoError(t, b.Flush(t.Context()))
		requireCount(t, c, 1, 2)
	})
}

func TestBuffer_RejectsASumThatOverflowsInt64(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{})
		b := newBuffer(t, c, counter.BufferOptions{Every: time.Hour})
		for taken := 0; taken < 2; { // by two shards
			err := b.Add(1, math.MaxInt64)
			if err == nil {
				taken++
				continue
			}
			require.ErrorIs(t, err, counter.ErrOverflow)
			require.NoError(t, b.Add(2, 0), "adds nothing")
			for range 2 { // then a core has no last shard, and takes the next
				runtime.GC()
			}
		}
		require.ErrorIs(t, b.Flush(t.Context()), counter.ErrOverflow)
		requireCount(t, c, 1, math.MaxInt64)
		require.Equal(t, 1, b.Stats().Sums, "one of them is kept")
		require.NoError(t, c.Delete(t.Context(), 1))
		require.NoError(t, b.Flush(t.Context()))
		requireCount(t, c, 1, math.MaxInt64)
		require.Zero(t, b.Stats().Sums)
	})
}

func TestBuffer_FlushesAfterEvery(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{TTL: time.Hour})
		b := newBuffer(t, c, counter.BufferOptions{Every: 100 * time.Millisecond})
		for i := range int64(3) {
			require.NoError(t, b.Inc(1))
			time.Sleep(99 * time.Millisecond)
			synctest.Wait()
			require.Equal(t, i, b.Stats().Flushes)
			time.Sleep(time.Millisecond)
			synctest.Wait()
			require.Equal(t, i+1, b.Stats().Flushes)
			requireCount(t, c, 1, i+1)
			time.Sleep(time.Hour / 2) // without additions nothing is sent
			require.Equal(t, i+1, b.Stats().Flushes)
		}
	})
}

// Up takes longer than the timeout of a background flush. Additions during a
// Flush are still sent, without another Add.
func TestBuffer_SendsAdditionsDuringALongFlush(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{TTL: time.Hour, UpTimeout: time.Hour, Up: func(_ context.Context, id int) (int64, error) {
			if id == 1 {
				time.Sleep(5 * time.Minute)
			}
			return 0, nil
		}})
		b := newBuffer(t, c, counter.BufferOptions{Every: 100 * time.Millisecond})
		require.NoError(t, b.Inc(1))
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := b.Flush(context.Background()); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		require.NoError(t, b.Inc(2))
		wg.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		require.Zero(t, b.Stats().Sums)
		requireCount(t, c, 1, 1)
		requireCount(t, c, 2, 1)
	})
}

// If ctx has ended, Flush sends nothing more, and loses nothing.
func TestBufferFlush_KeepsSumsThatWereNotSent(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{})
		b := newBuffer(t, c, counter.BufferOptions{Every: time.Hour})
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for range 20 {
			for id := range 100 {
				require.NoError(t, b.Inc(id))
			}
			err := b.Flush(ended)
			require.ErrorIs(t, err, context.Canceled)
			require.NotErrorIs(t, err, counter.ErrOutcomeUnknown)
		}
		require.Zero(t, b.Stats().Unknown)
		require.NoError(t, b.Flush(t.Context()))
		for id := range 100 {
			requireCount(t, c, id, 20)
		}
	})
}

// A blocking command occupies the only connection.
func TestBufferClose_ReportsUnsentSums(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	rdb := server.Client(func(o *redis.Options) { o.PoolSize, o.PoolTimeout = 1, 10*time.Millisecond })
	spec := counter.Spec[int]{Key: redistest.Key(t) + ":{id}", TTL: time.Hour}
	c := newCounter(t, rdb, spec)
	b := newBuffer(t, c, counter.BufferOptions{Every: time.Hour})
	for range 100 {
		require.NoError(t, b.Inc(1))
	}
	busy := rdb.Conn()
	require.NoError(t, busy.Ping(t.Context()).Err())
	err := c.Close(t.Context())
	require.ErrorIs(t, err, redis.ErrPoolTimeout)
	require.ErrorContains(t, err, "1 sums are kept, 0 may have been added")
	require.NotErrorIs(t, err, counter.ErrOutcomeUnknown)
	require.NoError(t, busy.Close())
	require.NoError(t, c.Close(t.Context()), "Close sends what the first one kept")
	require.Zero(t, b.Stats().Sums)
	requireCount(t, newCounter(t, rdb, spec), 1, 100)
}

func TestBuffer_KeepsAndReportsASumThatOverflowsTheCount(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{})
		b := newBuffer(t, c, counter.BufferOptions{Every: time.Hour})
		_, err := c.Add(t.Context(), 1, math.MaxInt64-1)
		require.NoError(t, err)
		require.NoError(t, b.Add(1, 5))
		for range 2 {
			require.ErrorIs(t, b.Flush(t.Context()), counter.ErrOverflow)
			require.Equal(t, 1, b.Stats().Sums, "it is kept")
		}
		require.ErrorIs(t, b.Inc(1), counter.ErrOverflow)
		require.NoError(t, b.Inc(2))
		require.NoError(t, b.Add(1, -10))
		require.NoError(t, b.Flush(t.Context()))
		requireCount(t, c, 1, math.MaxInt64-6)
		require.NoError(t, b.Inc(1))
		require.NoError(t, b.Flush(t.Context()))
		requireCount(t, c, 1, math.MaxInt64-5)
	})
}

func TestNewBuffer_RejectsUpCounts(t *testing.T) {
	t.Parallel()
	tb := newTable(map[int]int64{})
	c := newCounter(t, redistest.Shared(t).Client(nil), counter.Spec[int]{Up: tb.up, UpCounts: true})
	_, err := counter.NewBuffer(c, counter.BufferOptions{})
	require.ErrorContains(t, err, "Spec.UpCounts")
}
