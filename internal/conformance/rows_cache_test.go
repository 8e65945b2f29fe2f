package conformance

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
)

var reading = []row{{
	feature: "`Get`", proves: "a miss loads once, and another process reads the stored value",
	run: func(t *testing.T, w *world) {
		s := newSource(20)
		a, b := w.caches(t, cachex.Spec[int, string]{Up: s.up})
		for id := range 20 {
			for _, c := range []*cachex.Cache[int, string]{a, b, a} {
				v, err := c.Get(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, s.value(id), v)
			}
		}
		require.Equal(t, 20, s.asked())
		_, err := a.Get(t.Context(), 99)
		require.ErrorIs(t, err, missing)
	},
}, {
	feature: "`GetMany`", proves: "missing keys are loaded by one call of `UpMany`, unless a server answers much later than others; keys without a value are left out",
	run: func(t *testing.T, w *world) {
		s := newSource(40)
		a, b := w.caches(t, cachex.Spec[int, string]{UpMany: s.many})
		ids := append(upTo(40), 99)
		for _, c := range []*cachex.Cache[int, string]{a, b} {
			got, err := c.GetMany(t.Context(), ids)
			require.NoError(t, err)
			require.Len(t, got, 40)
			require.Equal(t, s.value(7), got[7])
		}
		w.requireQueries(t, 2, s, "and once more for what does not exist")
		require.Equal(t, 42, s.asked())
	},
}, {
	feature: "`Lookup`, `LookupMany`", proves: "nothing is loaded",
	run: func(t *testing.T, w *world) {
		s := newSource(3)
		a, b := w.caches(t, cachex.Spec[int, string]{Up: s.up})
		_, ok, err := a.Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.False(t, ok)
		require.NoError(t, a.Set(t.Context(), 1, "set"))
		v, ok, err := b.Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "set", v)
		got, err := b.LookupMany(t.Context(), upTo(3))
		require.NoError(t, err)
		require.Equal(t, map[int]string{1: "set"}, got)
		require.Zero(t, s.asked())
	},
}, {
	feature: "`Wrap`", proves: "a cached function shares the values of the cache",
	run: func(t *testing.T, w *world) {
		s := newSource(2)
		a, b := w.caches(t, cachex.Spec[int, string]{})
		for _, c := range []*cachex.Cache[int, string]{a, b} {
			v, err := c.Wrap(s.up)(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, s.value(1), v)
		}
		require.Equal(t, 1, s.asked())
	},
}, {
	feature: "`Stats`", proves: "each process counts its hits, misses and loads",
	run: func(t *testing.T, w *world) {
		s := newSource(1)
		a, b := w.caches(t, cachex.Spec[int, string]{Up: s.up})
		for _, c := range []*cachex.Cache[int, string]{a, a, b} {
			_, err := c.Get(t.Context(), 0)
			require.NoError(t, err)
		}
		got := a.Stats()
		require.EqualValues(t, []int64{1, 1, 1, 0}, []int64{got.Misses, got.Loads, got.Hits, got.RedisFailures})
		got = b.Stats()
		require.EqualValues(t, []int64{0, 0, 1, 0}, []int64{got.Misses, got.Loads, got.Hits, got.RedisFailures})
	},
}, {
	feature: "`Close`", proves: "calls end, twice is fine, and the client stays open",
	run: func(t *testing.T, w *world) {
		s := newSource(1)
		a, b := w.caches(t, cachex.Spec[int, string]{Up: s.up})
		_, err := a.Get(t.Context(), 0)
		require.NoError(t, err)
		require.NoError(t, a.Close(t.Context()))
		require.NoError(t, a.Close(t.Context()))
		_, err = a.Get(t.Context(), 0)
		require.ErrorIs(t, err, cachex.ErrClosed)
		require.ErrorIs(t, a.Delete(t.Context(), 0), cachex.ErrClosed)
		require.NoError(t, w.a.Get(t.Context(), b.Key(0)).Err())
	},
}}

var writing = []row{{
	feature: "`Set`, `SetMany`", proves: "the database first, and another process reads it",
	run: func(t *testing.T, w *world) {
		s := newSource(0)
		a, b := w.caches(t, cachex.Spec[int, string]{Up: s.up, Down: s.down})
		require.NoError(t, a.Set(t.Context(), 1, "one"))
		values := map[int]string{}
		for id := range 30 {
			values[id] = fmt.Sprint("set ", id)
		}
		require.NoError(t, a.SetMany(t.Context(), values))
		got, err := b.GetMany(t.Context(), upTo(30))
		require.NoError(t, err)
		require.Equal(t, values, got)
		require.Equal(t, values, s.values)
		require.Zero(t, s.asked())
	},
}, {
	feature: "`Delete`", proves: "no value whose load began before is stored or served after it",
	run: func(t *testing.T, w *world) {
		began, finish := make(chan struct{}, 1), make(chan string)
		a, b := w.caches(t, cachex.Spec[int, string]{Up: func(context.Context, int) (string, error) {
			began <- struct{}{}
			return <-finish, nil
		}})
		first := make(chan error, 1)
		go func() { _, err := a.Get(t.Context(), 1); first <- err }()
		<-began
		require.NoError(t, b.Delete(t.Context(), 1, 2, 3))
		finish <- "old"
		require.NoError(t, <-first)
		_, ok, err := b.Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.False(t, ok)
		go func() { <-began; finish <- "new" }()
		v, err := a.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "new", v)
		require.NoError(t, a.SetMany(t.Context(), map[int]string{1: "x", 2: "x", 3: "x"}))
		require.NoError(t, b.Delete(t.Context(), 1, 2, 3))
		got, err := a.LookupMany(t.Context(), upTo(4))
		require.NoError(t, err)
		require.Empty(t, got)
	},
}, {
	feature: "`Clear`", proves: "all keys of the cache and no others",
	lacks: func(t topology) string { return t.clear },
	run: func(t *testing.T, w *world) {
		a, b := w.caches(t, cachex.Spec[int, string]{})
		other, _ := w.caches(t, cachex.Spec[int, string]{Key: w.prefix + ":{id}:other"})
		const n = 200
		values := map[int]string{}
		for id := range n {
			values[id] = "x"
		}
		require.NoError(t, a.SetMany(t.Context(), values))
		require.NoError(t, other.SetMany(t.Context(), values))
		removed, err := a.Clear(t.Context())
		left, lookup := b.LookupMany(t.Context(), upTo(n))
		require.NoError(t, lookup)
		if w.clear != "" {
			require.ErrorContains(t, err, w.clear)
			require.Zero(t, removed)
			require.Len(t, left, n)
			return
		}
		require.NoError(t, err)
		require.EqualValues(t, n, removed)
		require.Empty(t, left)
		left, err = other.LookupMany(t.Context(), upTo(n))
		require.NoError(t, err)
		require.Len(t, left, n)
	},
}, {
	feature: "`WriteBehind`, `Flush`", proves: "the last value is persisted, and readable at once",
	run: func(t *testing.T, w *world) {
		s := newSource(0)
		a, b := w.caches(t, cachex.Spec[int, string]{Up: s.up, Down: s.down, WriteBehind: time.Hour})
		for id := range 10 {
			require.NoError(t, a.Set(t.Context(), id, "first"))
			require.NoError(t, b.Set(t.Context(), id, "last"))
			v, err := a.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, "last", v)
		}
		require.NoError(t, a.Flush(t.Context()))
		for id := range 10 {
			require.Equal(t, "last", s.value(id))
		}
	},
}}

func upTo(n int) []int {
	ids := make([]int, n)
	for i := range ids {
		ids[i] = i
	}
	return slices.Clip(ids)
}
