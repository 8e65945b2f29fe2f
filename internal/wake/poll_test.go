package wake

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// All processes that wait for a load know when it began and how long it should
// take.
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
					p := NewPoll(time.Now(), row.expect, 0, 3*time.Second)
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

func TestPoll_KeepsToItsFirstLookWhateverLooksCameBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := NewPoll(time.Now(), time.Second, 0, time.Minute)
		for left := 1001 * time.Millisecond; left > 0; left -= 100 * time.Millisecond {
			require.GreaterOrEqual(t, p.Next(false), left)
			require.LessOrEqual(t, p.Next(false), left+50*time.Millisecond)
			require.GreaterOrEqual(t, p.Next(true), left+250*time.Millisecond)
			require.LessOrEqual(t, p.Next(true), left+376*time.Millisecond)
			time.Sleep(100 * time.Millisecond)
		}
		require.Less(t, p.Next(false), 5*time.Millisecond)
	})
}

// The read that covers a subscription comes soon after the load should be over.
func TestPoll_CoversAMessageThatWasMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for expect, row := range map[time.Duration]struct{ gap, least, most time.Duration }{
			0:                      {0, 5 * time.Millisecond, 12 * time.Millisecond},
			4 * time.Millisecond:   {500 * time.Microsecond, 5 * time.Millisecond, 12 * time.Millisecond},
			80 * time.Millisecond:  {10 * time.Millisecond, 81 * time.Millisecond, 107 * time.Millisecond},
			800 * time.Millisecond: {12500 * time.Microsecond, 225 * time.Millisecond, 250 * time.Millisecond},
		} {
			p := NewPoll(time.Now(), expect, 100*time.Millisecond, time.Minute)
			require.Equal(t, row.gap, p.gap(), expect)
			p.Next(false)
			require.Zero(t, p.gap(), "it is too late for another")
			require.GreaterOrEqual(t, p.cover(), row.least, expect)
			require.LessOrEqual(t, p.cover(), row.most, expect)
			time.Sleep(2 * time.Millisecond)
			require.LessOrEqual(t, p.cover(), row.most-2*time.Millisecond, expect)
		}
	})
}
