package wake

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// All processes that wait for a load know when it began and what it should take.
func TestPoll_SpreadsTheFirstLooksOfAFleet(t *testing.T) {
	t.Parallel()
	const fleet = 1000
	for name, row := range map[string]struct {
		expect      time.Duration
		live        bool
		least, most time.Duration
	}{
		"of a load of 1 s":                 {time.Second, false, 1001 * time.Millisecond, 1051 * time.Millisecond},
		"of a load of 1 s, with wake-ups":  {time.Second, true, 1251 * time.Millisecond, 1377 * time.Millisecond},
		"of an unknown load":               {0, false, 5 * time.Millisecond, 6250 * time.Microsecond},
		"of an unknown one, with wake-ups": {0, true, 105 * time.Millisecond, 155 * time.Millisecond},
		"of a load of 1 ms":                {time.Millisecond, false, 2 * time.Millisecond, 2500 * time.Microsecond},
		"of a load of an hour":             {time.Hour, false, 3 * time.Second, 3050 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				moments := map[time.Duration]bool{}
				for range fleet {
					p := NewPoll(time.Now(), row.expect, 3*time.Second)
					d := p.Next(row.live)
					require.GreaterOrEqual(t, d, row.least)
					require.LessOrEqual(t, d, row.most)
					moments[d] = true
				}
				require.Greater(t, len(moments), fleet/2, "they look together")
			})
		})
	}
}
