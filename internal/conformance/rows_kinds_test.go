package conformance

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/gate"
)

// counters returns two counters with the same keys, one of each client.
func (w *world) counters(t *testing.T, spec counter.Spec[int]) (a, b *counter.Counter[int]) {
	t.Helper()
	spec.Key, spec.TTL = w.prefix+":count:{id}", time.Hour
	open := func(rdb redis.UniversalClient) *counter.Counter[int] {
		c, err := counter.New(rdb, spec)
		require.NoError(t, err)
		atEnd(t, c.Close)
		return c
	}
	return open(w.a), open(w.b)
}

var counters = []row{{
	feature: "`counter`: `Inc`, `Add`", proves: "restored once, and every addition counts once",
	run: func(t *testing.T, w *world) {
		var mu sync.Mutex
		loads := 0
		a, b := w.counters(t, counter.Spec[int]{Up: func(_ context.Context, id int) (int64, error) {
			mu.Lock()
			defer mu.Unlock()
			loads++
			return int64(1000 * id), nil
		}})
		var wg sync.WaitGroup
		errs := make([]error, 40)
		for i := range errs {
			wg.Go(func() {
				_, errs[i] = []*counter.Counter[int]{a, b}[i%2].Add(t.Context(), i%4, 2)
			})
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		for id := range 4 {
			n, err := a.Inc(t.Context(), id)
			require.NoError(t, err)
			require.EqualValues(t, 1000*id+21, n)
			n, err = b.Get(t.Context(), id)
			require.NoError(t, err)
			require.EqualValues(t, 1000*id+21, n)
		}
		require.Equal(t, 4, loads)
		require.NoError(t, a.Delete(t.Context(), 1))
		n, err := b.Get(t.Context(), 1)
		require.NoError(t, err)
		require.EqualValues(t, 1000, n)
	},
}, {
	feature: "`counter`: `AddOnce`", proves: "a retry adds nothing",
	run: func(t *testing.T, w *world) {
		a, b := w.counters(t, counter.Spec[int]{})
		for _, c := range []*counter.Counter[int]{a, b, a} {
			n, err := c.AddOnce(t.Context(), 1, 5, "op")
			require.NoError(t, err)
			require.EqualValues(t, 5, n)
		}
		n, err := b.Get(t.Context(), 1)
		require.NoError(t, err)
		require.EqualValues(t, 5, n)
	},
}, {
	feature: "`counter`: `Down`, `Buffer`", proves: "additions are persisted once, and counted at once",
	run: func(t *testing.T, w *world) {
		var mu sync.Mutex
		persisted := map[int]int64{}
		a, b := w.counters(t, counter.Spec[int]{
			FlushEvery: time.Hour,
			Up: func(_ context.Context, id int) (int64, error) {
				mu.Lock()
				defer mu.Unlock()
				return persisted[id], nil
			},
			Down: func(_ context.Context, f counter.Flush[int]) error {
				mu.Lock()
				defer mu.Unlock()
				for id, d := range f.Deltas {
					persisted[id] += d
				}
				return nil
			},
		})
		buffer, err := counter.NewBuffer(b, counter.BufferOptions{})
		require.NoError(t, err)
		for id := range 10 {
			_, err := a.Inc(t.Context(), id)
			require.NoError(t, err)
			require.NoError(t, buffer.Add(id, 10))
		}
		require.NoError(t, b.Flush(t.Context()))
		require.NoError(t, a.Flush(t.Context()))
		for id := range 10 {
			n, err := a.Get(t.Context(), id)
			require.NoError(t, err)
			require.EqualValues(t, 11, n)
			mu.Lock()
			require.EqualValues(t, 11, persisted[id])
			mu.Unlock()
		}
	},
}}

var gates = []row{{
	feature: "`gate`", proves: "one caller of two processes passes; an error reopens the gate",
	run: func(t *testing.T, w *world) {
		spec := gate.Spec[int]{Key: w.prefix + ":{id}", Every: time.Hour}
		a, err := gate.New(w.a, spec)
		require.NoError(t, err)
		b, err := gate.New(w.b, spec)
		require.NoError(t, err)
		for id := range 5 {
			require.ErrorIs(t, a.Do(t.Context(), id, func(context.Context) error { return errSource }), errSource)
			ok, _, err := b.Try(t.Context(), id)
			require.NoError(t, err)
			require.True(t, ok)
			ok, after, err := a.Try(t.Context(), id)
			require.NoError(t, err)
			require.False(t, ok)
			require.Positive(t, after)
			require.NoError(t, a.Reset(t.Context(), id))
			require.NoError(t, b.Do(t.Context(), id, func(context.Context) error { return nil }))
		}
	},
}}

// pair makes two of a kind, one of each client.
func pair[C interface{ Close(context.Context) error }](t *testing.T, w *world, open func(redis.UniversalClient) (C, error)) (a, b C) {
	t.Helper()
	for i, rdb := range []redis.UniversalClient{w.a, w.b} {
		c, err := open(rdb)
		require.NoError(t, err)
		atEnd(t, c.Close)
		if i == 0 {
			a = c
		} else {
			b = c
		}
	}
	return a, b
}
