package batch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/redistest"
)

// A shop is an UpMany whose every call waits for the test to answer it.
type shop struct {
	calls chan *order
	end   <-chan struct{}
}

type order struct {
	ctx    context.Context
	ids    []int
	answer chan func() (map[int]string, error)
}

func newShop(t *testing.T) *shop {
	return &shop{calls: make(chan *order, 1000), end: t.Context().Done()}
}

func (s *shop) upMany(ctx context.Context, ids []int) (map[int]string, error) {
	o := &order{ctx: ctx, ids: slices.Clone(ids), answer: make(chan func() (map[int]string, error), 1)}
	s.calls <- o
	select {
	case f := <-o.answer:
		return f()
	case <-s.end:
		return nil, errors.New("the test has ended")
	}
}

// next returns the next call, which must be for ids.
func (s *shop) next(t *testing.T, ids ...int) *order {
	t.Helper()
	o := receive(t, s.calls)
	require.ElementsMatch(t, ids, o.ids)
	return o
}

func (o *order) delivers(v string) {
	o.answer <- func() (map[int]string, error) { return goods(v, o.ids...), nil }
}

func (o *order) fails(err error) {
	o.answer <- func() (map[int]string, error) { return nil, err }
}

func goods(v string, ids ...int) map[int]string {
	m := make(map[int]string, len(ids))
	for _, id := range ids {
		m[id] = fmt.Sprint(v, id)
	}
	return m
}

func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		require.FailNow(t, "nothing happened", "after %v", patience)
		panic("unreachable")
	}
}

// A basket is what a Batch for some keys of one cache returned.
type basket struct {
	values map[int]string
	err    error // of the Value
	run    error
}

// running runs a Batch in a goroutine of its own.
func running(ctx context.Context, c *cachex.Cache[int, string], ids ...int) <-chan basket {
	ch := make(chan basket, 1)
	go func() { // ends with Run
		var b batch.Batch
		v := batch.GetMany(&b, c, ids)
		run := b.Run(ctx)
		values, err := v.Get()
		ch <- basket{values, err, run}
	}()
	return ch
}

func getting(ctx context.Context, c *cachex.Cache[int, string], id int) <-chan basket {
	ch := make(chan basket, 1)
	go func() { // ends with Get
		v, err := c.Get(ctx, id)
		ch <- basket{map[int]string{id: v}, err, nil}
	}()
	return ch
}

func has(t *testing.T, want map[int]string, ch <-chan basket) {
	t.Helper()
	got := receive(t, ch)
	require.NoError(t, got.run)
	require.NoError(t, got.err)
	require.Equal(t, want, got.values)
}

// again returns one more client of the server of rdb.
func again(t testing.TB, rdb *redis.Client) *redis.Client {
	t.Helper()
	opts := *rdb.Options()
	opts.PushNotificationProcessor = nil // which NewClient has set, and each client needs its own
	second := redis.NewClient(&opts)
	t.Cleanup(func() { _ = second.Close() })
	return second
}

// inShops runs f in a bubble, with two caches as two processes have them.
func inShops(t *testing.T, spec cachex.Spec[int, string], f func(t *testing.T, rdb *redis.Client, s *shop, a, b *cachex.Cache[int, string])) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		spec.Key, spec.UpMany = "k:{id}", s.upMany
		if spec.TTL == 0 {
			spec.TTL = time.Minute
		}
		spec.Jitter = cachex.NoJitter
		a, b := cachex.Must(cachex.New(rdb, spec)), cachex.Must(cachex.New(again(t, rdb), spec))
		f(t, rdb, s, a, b)
		require.NoError(t, a.Close(t.Context()))
		require.NoError(t, b.Close(t.Context()))
		require.Empty(t, s.calls)
	})
}

const longLease = time.Hour
