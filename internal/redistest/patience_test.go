package redistest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPatience_IsThirtySecondsTimesTheFactor(t *testing.T) {
	t.Parallel()
	for factor, want := range map[string]time.Duration{
		"": 30 * time.Second, "1": 30 * time.Second, "4": 2 * time.Minute, "0.5": 15 * time.Second, "1e6": 30e6 * time.Second,
	} {
		require.Equal(t, want, patienceOf(factor), factor)
	}
	for _, factor := range []string{"0", "-1", "NaN", "Inf", "1e7", "long", "30s", " "} {
		require.PanicsWithValue(t, "redistest: CACHEX_PATIENCE is \""+factor+"\", want a number above 0 and up to 1000000",
			func() { patienceOf(factor) })
	}
}
