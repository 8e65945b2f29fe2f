package conformance

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
)

var packed = []row{{
	feature: "`Packed`, by ranges", proves: "each entry has its own load, life and deletion, though many share a hash",
	run: func(t *testing.T, w *world) { packing(t, w, cachex.Spec[int, string]{Packed: 10}) },
}, {
	feature: "`Packed`, `Expected`", proves: "the same, with keys spread over hashes",
	run: func(t *testing.T, w *world) { packing(t, w, cachex.Spec[int, string]{Packed: 10, Expected: 40}) },
}, {
	feature: "`Delete` of packed entries", proves: "no value whose load began before is stored or served after it",
	run: func(t *testing.T, w *world) {
		began, finish := make(chan struct{}, 1), make(chan string)
		a, b := w.caches(t, cachex.Spec[int, string]{Packed: 10, Up: func(context.Context, int) (string, error) {
			began <- struct{}{}
			return <-finish, nil
		}})
		require.NoError(t, a.Set(t.Context(), 2, "neighbour"))
		first := make(chan error, 1)
		go func() { _, err := a.Get(t.Context(), 1); first <- err }()
		<-began
		require.NoError(t, b.Delete(t.Context(), 1, 3))
		finish <- "old"
		require.NoError(t, <-first)
		got, err := b.LookupMany(t.Context(), upTo(4))
		require.NoError(t, err)
		require.Equal(t, map[int]string{2: "neighbour"}, got)
		go func() { <-began; finish <- "new" }()
		v, err := a.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "new", v)
	},
}}

func packing(t *testing.T, w *world, spec cachex.Spec[int, string]) {
	s := newSource(40)
	spec.UpMany, spec.StaleIfError = s.many, time.Hour
	a, b := w.caches(t, spec)
	for _, c := range []*cachex.Cache[int, string]{a, b, a} {
		got, err := c.GetMany(t.Context(), append(upTo(40), 99))
		require.NoError(t, err)
		require.Len(t, got, 40)
		require.Equal(t, s.value(7), got[7])
	}
	require.Equal(t, 43, s.asked(), "each once, and what does not exist each time")
	require.NoError(t, a.Set(t.Context(), 1, "set"))
	require.NoError(t, a.Delete(t.Context(), 2))
	s.put(3, "new")
	require.NoError(t, a.Expire(t.Context(), 3))
	for id, want := range map[int]string{1: "set", 2: s.value(2), 3: "new", 4: s.value(4)} {
		v, err := b.Get(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, want, v, fmt.Sprint(id))
	}
	require.Equal(t, 45, s.asked(), "what was deleted, and what had expired")
}
