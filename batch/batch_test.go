package batch_test

import (
	"context"
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

func TestBatch_MisuseIsAnError(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		names := newCache(t, rdb, "names", cachex.Spec[int, string]{})
		require.NoError(t, names.Set(t.Context(), 1, "one"))
		is := func(want, err error) {
			t.Helper()
			require.ErrorIs(t, err, want)
		}
		var none *batch.Batch
		_, err := batch.Get(none, names, 1).Get()
		is(batch.ErrNilBatch, err)
		is(batch.ErrNilBatch, none.Run(t.Context()))

		var b batch.Batch
		var nothing *cachex.Cache[int, string]
		_, err = batch.Get(&b, nothing, 1).Get()
		is(batch.ErrNilSource, err)
		_, err = batch.Get[int, string](&b, nil, 1).Get()
		is(batch.ErrNilSource, err)
		_, err = batch.GetMany(&b, nothing, []int{1}).Get()
		is(batch.ErrNilSource, err)
		_, err = new(batch.Value[int]).Get()
		is(batch.ErrNotRun, err)

		name := batch.Get(&b, names, 1)
		many := batch.GetMany(&b, names, []int{1})
		_, err = name.Get()
		is(batch.ErrNotRun, err)
		_, err = many.Get()
		is(batch.ErrNotRun, err)
		y := &toy{rdb: rdb, answer: func(context.Context, func(int, int, error), error) {
			_, err := name.Get() // Run has not returned
			is(batch.ErrNotRun, err)
			is(batch.ErrUsed, b.Run(t.Context()))
			_, err = batch.Get(&b, names, 1).Get()
			is(batch.ErrUsed, err)
		}}
		batch.Get(&b, y, 1)
		require.NoError(t, b.Run(t.Context()))
		requireValue(t, "one", name)
		requireValue(t, map[int]string{1: "one"}, many)
		is(batch.ErrUsed, b.Run(t.Context()))
		_, err = batch.GetMany(&b, names, []int{1}).Get()
		is(batch.ErrUsed, err)
		requireValue(t, "one", name)
	})
}

func TestRun_OfAnEmptyBatchSendsNothing(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		trips := new(redistest.Counter)
		rdb.AddHook(trips)
		names := newCache(t, rdb, "names", cachex.Spec[int, string]{})
		var empty, b batch.Batch
		require.NoError(t, empty.Run(t.Context()))
		none := batch.GetMany(&b, names, nil)
		require.NoError(t, b.Run(t.Context()))
		requireValue(t, map[int]string{}, none)
		require.Zero(t, trips.RoundTrips())
	})
}

func TestRun_NilOrEndedCtxIsTheErrorOfAllKeys(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		trips := new(redistest.Counter)
		rdb.AddHook(trips)
		names := newCache(t, rdb, "names", cachex.Spec[int, string]{})
		y := &toy{rdb: rdb, read: func() { t.Error("it was read") }}
		ended, end := context.WithCancelCause(t.Context())
		end(errToy)
		for text, ctx := range map[string]context.Context{"ctx is nil": nil, errToy.Error(): ended} {
			var b batch.Batch
			name, n := batch.Get(&b, names, 1), batch.Get(&b, y, 1)
			all := batch.GetMany(&b, names, []int{1, 2})
			require.EqualError(t, b.Run(ctx), "cachex: batch: "+text)
			_, err := name.Get()
			require.EqualError(t, err, "cachex: batch: "+text)
			_, err = n.Get()
			require.EqualError(t, err, "cachex: batch: "+text)
			values, err := all.Get()
			require.EqualError(t, err, "cachex: batch: "+text)
			require.Empty(t, values)
		}
		require.Zero(t, trips.RoundTrips())
	})
}

func TestRun_ReadsOfOneSourceAreOneCallOfUpMany(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, 32, 33, 70} { // few keys are searched in another way than many
		redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
			var calls [][]int
			names := newCache(t, rdb, "names", cachex.Spec[int, string]{UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
				calls = append(calls, slices.Sorted(slices.Values(ids)))
				m := map[int]string{}
				for _, id := range ids {
					m[id] = fmt.Sprint("name", id)
				}
				return m, nil
			}})
			var b batch.Batch
			var all []*batch.Value[string]
			var ids []int
			want := map[int]string{}
			for range 2 {
				for id := range n {
					all = append(all, batch.Get(&b, names, id))
				}
			}
			for id := range n {
				ids = append(ids, id)
				want[id] = fmt.Sprint("name", id)
			}
			many := batch.GetMany(&b, names, append(ids, ids...))
			require.NoError(t, b.Run(t.Context()))
			for i, v := range all {
				requireValue(t, want[i%n], v)
			}
			requireValue(t, want, many)
			require.Equal(t, [][]int{ids}, calls)
		})
	}
}

// A views is a counter of the views of jobs: a type of another package that is made
// of a cache.
type views struct{ *cachex.Cache[int64, int64] }

// That this compiles is the test: nowhere is a type given.
func TestGet_InfersTypes(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		v := views{newCache(t, rdb, "views", cachex.Spec[int64, int64]{Up: func(context.Context, int64) (int64, error) { return 10, nil }})}
		names := newCache(t, rdb, "names", cachex.Spec[string, []string]{})
		var src batch.Source[int64, int64] = v
		var b batch.Batch
		one := batch.Get(&b, v, 42)
		some := batch.GetMany(&b, &v, []int64{42})
		any := batch.Get(&b, src, 42)
		name := batch.Get(&b, names, "x")
		require.NoError(t, b.Run(t.Context()))
		requireValue(t, 10, one)
		requireValue(t, map[int64]int64{42: 10}, some)
		requireValue(t, 10, any)
		_, err := name.Get()
		require.ErrorIs(t, err, cachex.ErrNotFound)
	})
}

func TestRun_WaitsForRedisAsLongAsTheMostPatientSource(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		leases []time.Duration // of caches
		own    bool            // there is a Source that is none of ours
		want   time.Duration
	}{
		"caches":                  {leases: []time.Duration{5 * time.Second, time.Minute, 10 * time.Second}, want: time.Minute},
		"a lease below a second":  {leases: []time.Duration{200 * time.Millisecond}, want: time.Second},
		"a source of one's own":   {own: true, want: 3 * time.Second},
		"that beside a cache":     {leases: []time.Duration{200 * time.Millisecond}, own: true, want: 3 * time.Second},
		"that beside a long wait": {leases: []time.Duration{time.Hour}, own: true, want: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
				hangs := make(chan struct{})
				rdb.AddHook(&redistest.Gate{Before: func(context.Context, redis.Cmder) { <-hangs }})
				var b batch.Batch
				for i, lease := range row.leases {
					c := newCache(t, rdb, fmt.Sprint(i), cachex.Spec[int, string]{LeaseTTL: lease})
					batch.Get(&b, c, 1)
				}
				if row.own {
					batch.Get(&b, &hash{rdb, "h"}, "f")
				}
				began := time.Now()
				require.ErrorContains(t, b.Run(t.Context()), "did not answer in time")
				require.Equal(t, row.want, time.Since(began))
				close(hangs)
			})
		})
	}
}
