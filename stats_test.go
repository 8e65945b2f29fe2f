package cachex

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/writebehind"
)

func TestStats_PrintsNonzeroFields(t *testing.T) {
	t.Parallel()
	s := Stats{Hits: 3, Breaker: BreakerOpen, WriteBehind: writebehind.Stats{Batches: 2, Forks: writebehind.Forks{Lost: 1}}}
	for _, verb := range []string{"%v", "%+v", "%s"} {
		require.Equal(t, "{Hits:3 Breaker:open WriteBehind:{Batches:2 Forks:{Lost:1}}}", fmt.Sprintf(verb, s))
	}
	require.Equal(t, "{}", fmt.Sprint(Stats{}))
}
