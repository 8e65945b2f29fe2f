package cachex

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKeySet_FindsDuplicates(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 2, 3, 4, 5, 100, 5000} {
		var r keySet
		for range 2 { // it is used again
			r.reset(n)
			var want []string
			seen := make(map[string]bool)
			for range n {
				key := fmt.Sprint(rand.IntN(n))
				require.Equal(t, !seen[key], r.add(append(r.buf, key...)))
				if !seen[key] {
					seen[key], want = true, append(want, key)
				}
			}
			require.ElementsMatch(t, want, r.strings())
			require.Equal(t, len(want), len(r.strings()))
			for i, key := range r.strings() {
				require.Equal(t, want[i], key)
			}
		}
	}
}
