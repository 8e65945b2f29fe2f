package collection

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// Two processes add the same ten thousand members, five at a time, to sets that
// are being restored. Each member is new to exactly one of them, and all are
// kept.
func TestSet_LosesNothingWhileRestored(t *testing.T) {
	t.Parallel()
	rdb := redistest.Shared(t).Client(nil)
	const sets, each, at = 100, 100, 5
	before := []string{"x", "y"}
	var loads, added atomic.Int64
	spec := SetSpec[int, string]{
		Key: redistest.Key(t) + ":{id}",
		Up: func(context.Context, int) ([]string, error) {
			loads.Add(1)
			return before, nil
		},
	}
	var wg sync.WaitGroup
	for w := range 2 {
		s := set(t, again(t, rdb), spec)
		wg.Go(func() {
			for i := range sets * each / at {
				id := i % sets
				if w == 1 { // it meets the other process in the middle
					id = sets - 1 - id
				}
				var members []string
				for j := range at {
					members = append(members, fmt.Sprint(i/sets*at+j))
				}
				n, err := s.Add(t.Context(), id, members...)
				if err != nil {
					t.Error(err)
				}
				added.Add(n)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, sets*each, added.Load(), "of a member one is told that it is new")
	require.EqualValues(t, sets, loads.Load())
	want := slices.Clone(before)
	for i := range each {
		want = append(want, fmt.Sprint(i))
	}
	s := set(t, rdb, spec)
	for id := range sets {
		got, err := s.Get(t.Context(), id)
		require.NoError(t, err)
		require.ElementsMatch(t, want, got)
		ttl := rdb.PTTL(t.Context(), name(t, &s.store, id)).Val()
		require.True(t, ttl > 0 && ttl <= someTTL, ttl)
	}
}
