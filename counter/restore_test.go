package counter_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

// table is a system of record with its Up and Down. The test can stop Up.
type table struct {
	mu      sync.Mutex
	rows    map[int]int64 // guarded by mu
	failing error         // guarded by mu: of Down
	loads   atomic.Int64
	stops   chan chan struct{} // nil, or the channel on which an Up reports that it has read, and waits
}

func newTable(rows map[int]int64) *table { return &table{rows: rows} }

func (tb *table) up(ctx context.Context, id int) (int64, error) {
	tb.loads.Add(1)
	n := tb.get(id)
	tb.mu.Lock()
	stops := tb.stops
	tb.mu.Unlock()
	if stops == nil {
		return n, nil
	}
	goOn := make(chan struct{})
	select {
	case stops <- goOn:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case <-goOn:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return n, nil
}

// slow makes each Up wait, and returns the channel on which it reports.
func (tb *table) slow() chan chan struct{} {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.stops = make(chan chan struct{})
	return tb.stops
}

func (tb *table) fast() {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.stops = nil
}

func (tb *table) down(_ context.Context, f counter.Flush[int]) error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if tb.failing != nil {
		return tb.failing
	}
	for id, delta := range f.Deltas {
		tb.rows[id] += delta
	}
	for id, n := range f.Values {
		tb.rows[id] = n
	}
	return nil
}

func (tb *table) get(id int) int64 {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.rows[id]
}

func (tb *table) set(id int, n int64) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.rows[id] = n
}

func (tb *table) fail(err error) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.failing = err
}

// eachKind runs f with a counter of a table, on each server, once with Down and
// once without. FlushEvery is so long that only the test flushes.
func eachKind(t *testing.T, rows map[int]int64, f func(t *testing.T, c *counter.Counter[int], tb *table, rdb *redis.Client, down bool)) {
	t.Helper()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for _, down := range []bool{false, true} {
			tb := newTable(map[int]int64{})
			for id, n := range rows {
				tb.rows[id] = n
			}
			spec := counter.Spec[int]{Key: redistest.Key(t) + ":{id}", Up: tb.up}
			if down {
				spec.Down, spec.FlushEvery = tb.down, patience*100
			}
			f(t, newCounter(t, rdb, spec), tb, rdb, down)
		}
	})
}

// async calls f on another goroutine; the returned function waits for its
// result.
func async(t *testing.T, f func() (int64, error)) func() int64 {
	type result struct {
		n   int64
		err error
	}
	ch := make(chan result, 1)
	go func() {
		n, err := f()
		ch <- result{n, err}
	}()
	return func() int64 {
		t.Helper()
		select {
		case r := <-ch:
			require.NoError(t, r.err)
			return r.n
		case <-t.Context().Done():
			require.FailNow(t, "over")
			return 0
		}
	}
}

func requireCount(t *testing.T, c *counter.Counter[int], id int, want int64, msg ...any) {
	t.Helper()
	n, err := c.Get(t.Context(), id)
	require.NoError(t, err, msg...)
	require.Equal(t, want, n, msg...)
}

func TestRefresh_CountsConcurrentAdditionsOnce(t *testing.T) {
	t.Parallel()
	eachKind(t, map[int]int64{1: 100}, func(t *testing.T, c *counter.Counter[int], tb *table, _ *redis.Client, down bool) {
		requireCount(t, c, 1, 100)
		tb.set(1, 500)
		stops := tb.slow()
		refreshed := async(t, func() (int64, error) { return c.Refresh(t.Context(), 1) })
		goOn := <-stops
		for i := range int64(3) {
			n, err := c.Inc(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, 101+i, n, "an Add waits for no Refresh")
		}
		close(goOn)
		require.Equal(t, int64(503), refreshed())
		requireCount(t, c, 1, 503)
		tb.fast()
		if down {
			require.NoError(t, c.Flush(t.Context()))
			require.Equal(t, int64(503), tb.get(1))
		}
	})
}

func TestRestore_KeepsAConcurrentSet(t *testing.T) {
	t.Parallel()
	eachKind(t, map[int]int64{1: 100}, func(t *testing.T, c *counter.Counter[int], tb *table, _ *redis.Client, down bool) {
		stops := tb.slow()
		restored := async(t, func() (int64, error) { return c.Get(t.Context(), 1) })
		goOn := <-stops
		require.NoError(t, c.Set(t.Context(), 1, 7)) // it does not wait
		close(goOn)
		restored()
		tb.fast()
		requireCount(t, c, 1, 7)
		n, err := c.Inc(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, int64(8), n)
		if down {
			require.NoError(t, c.Flush(t.Context()))
			require.Equal(t, int64(8), tb.get(1))
		}
	})
}

func TestRestore_LosesNoCountToADelete(t *testing.T) {
	t.Parallel()
	eachKind(t, map[int]int64{1: 100}, func(t *testing.T, c *counter.Counter[int], tb *table, _ *redis.Client, down bool) {
		stops := tb.slow()
		added := async(t, func() (int64, error) { return c.Inc(t.Context(), 1) })
		goOn := <-stops
		require.NoError(t, c.Delete(t.Context(), 1))
		tb.set(1, 200) // the running Up has not read it
		tb.fast()
		close(goOn)
		require.Equal(t, int64(201), added())
		requireCount(t, c, 1, 201)
		if down {
			require.NoError(t, c.Flush(t.Context()))
			require.Equal(t, int64(201), tb.get(1))
		}
	})
}

// A reader sees all earlier acknowledged additions, although the restore loses
// its lease.
func TestRestore_IncludesPendingAdditionsAfterADelete(t *testing.T) {
	t.Parallel()
	eachKind(t, map[int]int64{1: 100}, func(t *testing.T, c *counter.Counter[int], tb *table, _ *redis.Client, down bool) {
		if !down {
			return
		}
		for _, flushed := range []bool{false, true} {
			_, err := c.Add(t.Context(), 1, 10)
			require.NoError(t, err)
			want := tb.get(1) + 10
			require.NoError(t, c.Delete(t.Context(), 1))
			stops := tb.slow()
			read := async(t, func() (int64, error) { return c.Get(t.Context(), 1) })
			goOn := <-stops
			require.NoError(t, c.Delete(t.Context(), 1))
			tb.fast()
			if flushed {
				require.NoError(t, c.Flush(t.Context()))
			}
			close(goOn)
			require.Equal(t, want, read(), "flushed meanwhile: %v", flushed)
			require.NoError(t, c.Flush(t.Context()))
		}
	})
}

func TestRestore_AfterExpiry(t *testing.T) {
	t.Parallel()
	eachKind(t, map[int]int64{1: 100}, func(t *testing.T, c *counter.Counter[int], tb *table, _ *redis.Client, down bool) {
		_, err := c.Inc(t.Context(), 1)
		require.NoError(t, err)
		tb.set(1, 500)
		require.NoError(t, c.Expire(t.Context(), 1))
		n, err := c.Inc(t.Context(), 1)
		require.NoError(t, err)
		if down {
			require.Equal(t, int64(502), n, "the first one is still pending")
		} else {
			require.Equal(t, int64(501), n, "the source is to know of the first one")
		}
		require.Equal(t, int64(2), tb.loads.Load())
	})
}

// A value that is not a count is a miss, as in a Cache; an addition replaces
// it.
func TestRestore_ForeignValueIsAMiss(t *testing.T) {
	t.Parallel()
	eachKind(t, map[int]int64{1: 100}, func(t *testing.T, c *counter.Counter[int], tb *table, rdb *redis.Client, down bool) {
		ctx, k := t.Context(), c.Key(1)
		texts := map[string]string{}
		if !down {
			process := redis.NewClient(rdb.Options()) // another client, since New rejects two types of one template
			defer func() { _ = process.Close() }()
			words, err := cachex.New(process, cachex.Spec[int, string]{Key: strings.Replace(k, ":1", ":{id}", 1), TTL: cachex.Forever})
			require.NoError(t, err)
			require.Equal(t, k, words.Key(1))
			require.NoError(t, words.Set(ctx, 1, "no count"))
			texts["an entry"] = rdb.Get(ctx, k).Val()
			require.NoError(t, words.Close(ctx))
		}
		texts["foreign"], texts["a number"], texts["empty"] = "hello", "41", ""
		pending := int64(0)
		for name, text := range texts {
			for _, read := range []bool{false, true} {
				require.NoError(t, rdb.Set(ctx, k, text, 0).Err())
				if read {
					requireCount(t, c, 1, 100+pending, name)
				}
				n, err := c.Inc(ctx, 1)
				require.NoError(t, err, name)
				require.Equal(t, 101+pending, n, name)
				if down {
					pending++
				}
			}
		}
		require.NoError(t, rdb.Del(ctx, k).Err())
		require.NoError(t, rdb.RPush(ctx, k, "a").Err())
		n, err := c.Inc(ctx, 1)
		require.NoError(t, err)
		require.Equal(t, 101+pending, n)
		require.Equal(t, "string", rdb.Type(ctx, k).Val())
	})
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{})
		require.NoError(t, rdb.RPush(t.Context(), c.Key(1), "a").Err())
		n, err := c.Inc(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, int64(1), n)
	})
}

func TestRestore_MissingRowIsZero(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{
			Up: func(context.Context, int) (int64, error) {
				return 9, errors.Join(errors.New("no row"), cachex.ErrNotFound)
			},
		})
		requireCount(t, c, 1, 0)
		n, err := c.Inc(t.Context(), 2)
		require.NoError(t, err)
		require.Equal(t, int64(1), n)
	})
}

func TestAdd_AddsNothingIfUpFails(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		boom := errors.New("boom")
		fails := map[string]func() (int64, error){
			"error": func() (int64, error) { return 5, boom },
			"panic": func() (int64, error) { panic(boom) },
		}
		for name, fail := range fails {
			for _, down := range []bool{false, true} {
				tb := newTable(map[int]int64{1: 100})
				var broken atomic.Bool
				spec := counter.Spec[int]{
					Key: redistest.Key(t) + ":{id}",
					Up: func(ctx context.Context, id int) (int64, error) {
						if broken.Load() {
							return fail()
						}
						return tb.up(ctx, id)
					},
				}
				if down {
					spec.Down = tb.down
				}
				c := newCounter(t, rdb, spec)
				broken.Store(true)
				for _, add := range []func() (int64, error){
					func() (int64, error) { return c.Inc(t.Context(), 1) },
					func() (int64, error) { return c.AddOnce(t.Context(), 1, 1, "once") },
				} {
					n, err := add()
					require.ErrorIs(t, err, boom, name)
					require.Zero(t, n)
					e, ok := errors.AsType[*cachex.Error](err)
					require.True(t, ok)
					require.Equal(t, c.Key(1), e.Key)
				}
				broken.Store(false)
				n, err := c.AddOnce(t.Context(), 1, 1, "once")
				require.NoError(t, err)
				require.Equal(t, int64(101), n)
				n, err = c.Inc(t.Context(), 1)
				require.NoError(t, err)
				require.Equal(t, int64(102), n)
			}
		}
	})
}
