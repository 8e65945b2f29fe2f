package nonzero

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFormat_LeavesOutWhatIsZero(t *testing.T) {
	t.Parallel()
	type inner struct{ A, B int }
	type outer struct {
		N, Zero int64
		Took    time.Duration
		At      time.Time
		Inner   inner
		Empty   inner
		hidden  int
	}
	for want, v := range map[string]any{
		"{}":                                 outer{hidden: 1},
		"{N:3 Took:1.5s}":                    outer{N: 3, Took: 1500 * time.Millisecond},
		"{N:-1 Inner:{B:2}}":                 outer{N: -1, Inner: inner{B: 2}},
		"{At:1970-01-01 00:00:01 +0000 UTC}": outer{At: time.Unix(1, 0).UTC()},
	} {
		require.Equal(t, want, Format(v))
	}
}
