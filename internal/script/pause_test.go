package script_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// A clock is a cell on a server whose time the test sets.
type clock struct {
	*cell
	set func(d time.Duration) // time since stoppedAt
}

func newClock(t *testing.T) clock {
	server := redistest.StartEmbedded(t)
	set := func(d time.Duration) { server.SetTime(time.UnixMilli(stoppedAt).Add(d)) }
	set(0)
	return clock{newCell(t, server.Client(nil)), set}
}

// acquire returns the kind of the reply, and the token that it used.
func (c clock) acquire(a ask) (kind string, token entry.Token) {
	c.t.Helper()
	token = entry.NewToken()
	return c.do(script.Acquire, acquiring(token, a)...).([]any)[0].(string), token
}

func (c clock) kind(a ask) string {
	c.t.Helper()
	kind, _ := c.acquire(a)
	return kind
}

const ms = time.Millisecond

func TestAPauseDoublesWithEachFailureUpToItsLimitAndEndsByItself(t *testing.T) {
	t.Parallel()
	const pause = 100 * ms
	for name, most := range map[string]time.Duration{
		"a limit between": 5 * time.Second, "a limit below": 70 * ms, "none that is reached": maxPause,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClock(t)
			c.do(script.Write, writing(c.key, own, 0, freshTTL)...)
			at := freshTTL
			for failed := range entry.MaxFails + 4 {
				c.set(at)
				kind, token := c.acquire(ask{})
				require.Equal(t, "R", kind)
				require.Equal(t, min(failed, entry.MaxFails), c.header().Fails, "a lease does not change it")
				require.Equal(t, int64(1), c.do(script.Release, pausing(token, pause, most)...))
				require.Equal(t, int64(0), c.do(script.Release, pausing(token, pause, most)...), "sent twice")
				wait := min(pause<<min(failed, entry.MaxFails), most)
				h := c.header()
				require.True(t, h.Paused())
				require.Equal(t, min(failed+1, entry.MaxFails), h.Fails)
				require.Equal(t, stoppedAt+(at+wait).Milliseconds(), h.Till)

				at += wait
				c.set(at - ms)
				require.Equal(t, "S", c.kind(ask{hint: true}), "too early")
				require.Equal(t, "S", c.kind(ask{want: script.Due}), "too early for that, too")
				require.Equal(t, h, c.header(), "to ask does not change it")
			}
			// A load that succeeds resets the number of failures.
			c.set(at)
			_, token := c.acquire(ask{})
			require.Equal(t, int64(1), c.do(script.Renew, renewing(token, 0, freshTTL)...))
			require.Zero(t, c.header().Fails)
			require.Equal(t, "V", c.kind(ask{}))
		})
	}
}

func TestAPauseOfNoTimeIsOverAtOnceAndCounts(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	c.do(script.Write, writing(c.key, own, 0, freshTTL)...)
	c.set(freshTTL)
	for failed := range 3 {
		kind, token := c.acquire(ask{})
		require.Equal(t, "R", kind)
		require.Equal(t, failed, c.header().Fails)
		require.Equal(t, int64(1), c.do(script.Release, pausing(token, 0, time.Hour)...))
	}
}

func TestAPauseOfAFreshValueHoldsBackWhatIsDueAndNoReader(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	c.do(script.Write, writing(c.key, own, 0, freshTTL)...)
	kind, token := c.acquire(ask{want: script.Due, seen: own[:]})
	require.Equal(t, "R", kind)
	require.Equal(t, "V", c.kind(ask{}), "it is fresh while somebody loads")
	require.Equal(t, "V", c.kind(ask{want: script.Due, seen: own[:]}), "who read the value before the lease is late")
	require.Equal(t, int64(1), c.do(script.Release, pausing(token, time.Minute, time.Hour)...))
	require.Equal(t, "V", c.kind(ask{}))
	require.Equal(t, "S", c.kind(ask{want: script.Due}))
	require.Equal(t, "S", c.kind(ask{want: script.Due, seen: make([]byte, 8)}))
	require.Equal(t, "R", c.kind(ask{want: script.Now}))
}

func TestExpireEndsAPauseAndWhatFailsAfterItHasNone(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	c.do(script.Write, writing(c.key, own, 0, freshTTL)...)
	c.set(freshTTL)
	_, token := c.acquire(ask{})
	c.do(script.Release, pausing(token, time.Minute, time.Hour)...)
	require.Equal(t, "S", c.kind(ask{}))
	require.Equal(t, int64(1), c.do(script.Expire))
	require.False(t, func() bool { h := c.header(); return h.Paused() }())
	kind, token := c.acquire(ask{})
	require.Equal(t, "R", kind)
	require.Zero(t, c.header().Fails)
	require.Equal(t, int64(1), c.do(script.Expire), "while it loads")
	c.do(script.Release, pausing(token, time.Minute, time.Hour)...)
	kind, token = c.acquire(ask{})
	require.Equal(t, "R", kind, "whoever expired it knows of something new")
	c.do(script.Release, pausing(token, time.Minute, time.Hour)...)
	require.Equal(t, "S", c.kind(ask{}), "the load that came after that is not excused")
}

// Every lease on a stale value may prolong it. The value is then there for
// longer, but is of no use to any caller, and a pause on it delays no caller.
func TestLeasesThatFailDoNotMakeAValueLiveForever(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	use := 10 * time.Second
	c.do(script.Write, writing(c.key, own, freshTTL+use, freshTTL)...)
	served := 0
	for at := freshTTL; ; at += 2 * time.Second {
		c.set(at)
		kind, token := c.acquire(ask{use: use})
		if at >= freshTTL+use {
			require.Equal(t, "G", kind)
			break
		}
		require.Equal(t, "R", kind, at)
		c.do(script.Release, pausing(token, 2*time.Second, 2*time.Second)...)
		served++
	}
	require.Equal(t, 5, served)

	// The same is exact to the millisecond for a value that is leased, paused
	// or neither.
	for _, last := range []string{"R", "S leased", "S paused"} {
		c := newClock(t)
		c.do(script.Write, writing(c.key, own, 0, freshTTL)...)
		c.set(freshTTL)
		if last != "R" {
			_, token := c.acquire(ask{use: use})
			args := extending(token)
			args[1] = hour
			c.do(script.Extend, args...)
			if last == "S paused" {
				c.do(script.Release, pausing(token, time.Hour, time.Hour)...)
			}
		}
		before := c.raw()
		c.set(freshTTL + use - ms)
		require.Equal(t, last[:1], c.kind(ask{use: use}), last)
		require.NoError(t, c.rdb.Set(t.Context(), c.key, before, 0).Err())
		c.set(freshTTL + use)
		want := "G"
		if last == "S leased" {
			want = "W" // the caller waits for a load that goes on
		}
		require.Equal(t, last[:1], c.kind(ask{use: use + ms}), last)
		require.NoError(t, c.rdb.Set(t.Context(), c.key, before, 0).Err())
		require.Equal(t, want, c.kind(ask{use: use}), last)
	}
}

func TestThatThereIsNoneIsKnownUntilTheMillisecondBefore(t *testing.T) {
	t.Parallel()
	c := newClock(t)
	kind, token := c.acquire(ask{})
	require.Equal(t, "G", kind)
	args := storingNone(c.key, token, time.Minute, 5*time.Second)
	require.Equal(t, int64(1), c.do(script.Store, args...))
	require.Equal(t, int64(2), c.do(script.Store, args...), "sent twice")
	require.Equal(t, int64(0), c.do(script.Renew, renewing(token, keepTTL, freshTTL)...), "there is nothing to renew")
	require.Equal(t, int64(0), c.do(script.Extend, extending(token)...))
	require.Equal(t, int64(0), c.do(script.Release, dropping(token)...))
	c.set(5*time.Second - ms)
	require.Equal(t, "N", c.kind(ask{use: useTTL}))
	require.Equal(t, "N", c.kind(ask{want: script.Due, seen: own[:]}))
	c.requireTTL(time.Minute-5*time.Second+ms, c.t0)
	c.set(5 * time.Second)
	kind, token = c.acquire(ask{use: useTTL})
	require.Equal(t, "G", kind)
	c.requireTTL(leaseTTL, c.t0)
	require.Equal(t, "W", c.kind(ask{}))

	// A load replaces it, or leaves nothing.
	require.Equal(t, int64(1), c.do(script.Store, storing(c.key, token, keepTTL, freshTTL)...))
	require.Equal(t, "V", c.kind(ask{}))
	_, token = c.acquire(ask{want: script.Now})
	require.Equal(t, int64(1), c.do(script.Store, storingNone(c.key, token, time.Minute, time.Minute)...))
	require.Equal(t, "N", c.kind(ask{}), "the value that the lease stood on is gone")
	_, token = c.acquire(ask{want: script.Now})
	require.Equal(t, int64(1), c.do(script.Release, pausing(token, time.Minute, time.Hour)...))
	require.Equal(t, "none", c.snapshot())
}

// A caller that takes a lease away fences its holder, for all later commands of
// the holder.
func TestALeaseThatIsTakenNowFencesItsHolder(t *testing.T) {
	t.Parallel()
	for _, value := range []bool{false, true} {
		c := newClock(t)
		want := "G"
		if value {
			c.do(script.Write, writing(c.key, own, 0, freshTTL)...)
			c.set(freshTTL)
			want = "R"
		}
		kind, first := c.acquire(ask{})
		require.Equal(t, want, kind)
		require.Equal(t, int64(1), c.do(script.Expire))
		kind, second := c.acquire(ask{want: script.Now})
		require.Equal(t, want, kind)
		before := c.raw()
		require.Equal(t, int64(0), c.do(script.Store, storing(c.key, first, keepTTL, freshTTL)...))
		require.Equal(t, int64(0), c.do(script.Store, storingNone(c.key, first, keepTTL, freshTTL)...))
		require.Equal(t, int64(0), c.do(script.Renew, renewing(first, keepTTL, freshTTL)...))
		require.Equal(t, int64(0), c.do(script.Extend, extending(first)...))
		require.Equal(t, int64(0), c.do(script.Release, pausing(first, time.Minute, time.Hour)...))
		require.Equal(t, int64(0), c.do(script.Release, dropping(first)...))
		require.Equal(t, before, c.raw())
		require.Equal(t, int64(1), c.do(script.Store, storing(c.key, second, keepTTL, freshTTL)...),
			"a load that began after Expire is fresh")
	}
}

func TestPausesOfEveryLengthSurviveTheArithmeticOfLua(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCell(t, rdb)
		const longest = int64(1<<63-1) / int64(ms) // the longest that a time.Duration can hold
		for _, pause := range []int64{0, 1, 255, 1 << 32, 1<<40 + 1, longest} {
			for _, most := range []int64{0, 1, 1<<32 - 1, longest} {
				for _, fails := range []int{0, 1, 7, entry.MaxFails} {
					h := entry.Header{State: entry.Value, Token: own, Till: 1, Fails: fails}
					c.seed(c.entry(h, old), seedTTL)
					require.Equal(t, int64(1), c.do(script.Release, own[:], pause, most))
					wait := most // 2^fails times pause would overflow
					if pause <= most>>fails {
						wait = pause << fails
					}
					c.requireEntry(func(at int64) entry.Header {
						return entry.Header{State: entry.Value, Till: at + wait, Fails: min(fails+1, entry.MaxFails)}
					}, old, "%d of at most %d after %d", pause, most, fails)
				}
			}
		}
	})
}

func TestFlagsAndFailuresAreEditedEachByItself(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCell(t, rdb)
		for fails := range entry.MaxFails + 1 {
			for flags := entry.Flags(0); flags < 16; flags++ {
				h := entry.Header{State: entry.Value, Flags: flags, Token: own, Till: entry.Forever, Fails: fails}
				for _, test := range []struct {
					script *script.Script
					args   []any
					flags  entry.Flags
					fails  int
				}{
					{script.Extend, extending(own), flags, fails},
					{script.Acquire, acquiring(other, ask{hint: true}), flags | entry.Awaited, fails},
					{script.Acquire, acquiring(other, ask{want: script.Now}), flags & (entry.Stale | entry.Count), fails},
					{script.Expire, nil, flags | entry.Expired | entry.Stale, fails},
					{script.Release, releasing(own), flags & (entry.Stale | entry.Count), fails},
					{script.Renew, renewing(own, 0, 0), (flags&entry.Expired)*entry.Stale | flags&entry.Count, 0},
				} {
					c.seed(c.entry(h, "17"), 0) // a payload that a count may hold too
					c.do(test.script, test.args...)
					got := c.header()
					require.Equal(t, test.flags, got.Flags, "flags %d, %d failures", flags, fails)
					require.Equal(t, test.fails, got.Fails, "flags %d, %d failures", flags, fails)
				}
			}
		}
	})
}
