package key

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHashable_SaysWhatAMapSays(t *testing.T) {
	t.Parallel()
	type empty [0]struct{ S []int }
	type pair struct{ A, B any }
	for _, k := range []any{nil, 1, "a", math.NaN(), [0]any{}, [1]any{1}, [0]hollow{}, pair{1, "b"}} {
		require.NoError(t, Hashable(k), "%T", k)
	}
	for _, k := range []any{
		[]int{}, map[int]int(nil), func() {}, [0][]int{}, [1]any{[]int{}},
		empty{}, pair{math.NaN(), []int{}}, pair{1, empty{}}, [0]struct{ F func() }{},
	} {
		require.ErrorIs(t, Hashable(k), ErrUnhashable, "%T", k)
	}
}

// hollow has nothing that cannot be compared.
type hollow struct{ A any }
