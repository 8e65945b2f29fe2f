package breaker

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// model is a sequential specification of a Breaker, with its own clock.
type model struct {
	now      time.Duration
	state    State
	failures int           // consecutive, while closed
	since    time.Duration // when it opened, or the last probe ended, or the present one was granted
	opened   int64
}

func (m *model) fail(sure bool) {
	switch {
	case m.state == Closed:
		if m.failures++; sure || m.failures == 3 {
			m.state, m.since = Open, m.now
			m.opened++
		}
	case m.state == HalfOpen:
		m.state, m.since = Open, m.now
	}
}

func (m *model) succeed() { m.state, m.failures = Closed, 0 }

func (m *model) probe() bool {
	due := m.state == Open && m.now-m.since >= every || m.state == HalfOpen && m.now-m.since >= lost
	if due {
		m.state, m.since = HalfOpen, m.now
	}
	return due
}

// step applies one event to a Breaker and its model, and returns both results.
type step struct {
	name string
	do   func(*Breaker, *model) (got, want bool)
}

func passes(d time.Duration) step {
	return step{fmt.Sprint("after ", d), func(_ *Breaker, m *model) (bool, bool) {
		time.Sleep(d)
		m.now += d
		return true, true
	}}
}

var steps = []step{
	{"success", func(b *Breaker, m *model) (bool, bool) { b.Success(); m.succeed(); return true, true }},
	{"failure", func(b *Breaker, m *model) (bool, bool) { b.Failure(false); m.fail(false); return true, true }},
	{"sure failure", func(b *Breaker, m *model) (bool, bool) { b.Failure(true); m.fail(true); return true, true }},
	{"probe", func(b *Breaker, m *model) (bool, bool) { return b.Probe(), m.probe() }},
	passes(tick),
	passes(every - tick),
	passes(lost - every),
}

// check applies steps, and returns an error if the Breaker and its model
// differ.
func check(path []int) error {
	var b Breaker
	var m model
	for i, n := range path {
		got, want := steps[n].do(&b, &m)
		if got != want || b.Allow() != (m.state == Closed) || b.State() != m.state || b.Opened() != m.opened {
			return fmt.Errorf("after %s: it said %v and is %v, opened %d times; to be %v and %v, %d times",
				names(path[:i+1]), got, b.State(), b.Opened(), want, m.state, m.opened)
		}
	}
	return nil
}

func names(path []int) (names []string) {
	for _, n := range path {
		names = append(names, steps[n].name)
	}
	return names
}

func TestBreaker_MatchesTheModelInAllShortHistories(t *testing.T) {
	t.Parallel()
	const length = 6
	synctest.Test(t, func(t *testing.T) {
		path := make([]int, length)
		for {
			require.NoError(t, check(path))
			i := 0
			for ; i < length; i++ {
				if path[i]++; path[i] < len(steps) {
					break
				}
				path[i] = 0
			}
			if i == length {
				return
			}
		}
	})
}

func TestBreaker_MatchesTheModelInLongHistories(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for range 200 {
			path := make([]int, 500)
			for i := range path {
				path[i] = rand.N(len(steps))
			}
			require.NoError(t, check(path))
		}
	})
}
