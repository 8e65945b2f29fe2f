package script_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
)

// lived sets the fields of h that depend on the life and the load of a value.
func lived(h *entry.Header, want, at int64, fresh, cost, age time.Duration) {
	h.Flags, h.Fails, h.Till, h.Born, h.Cost = 0, 0, 0, at-age.Milliseconds(), cost
	switch {
	case want == 3:
		h.Flags, h.Soft = entry.Stale, at
	case fresh == 0:
		h.Soft = entry.Forever
	default:
		h.Soft = at + fresh.Milliseconds()
	}
}

// replaced wants a reply and a new value with these times.
func replaced(want int64, token entry.Token, keep, fresh, cost, age time.Duration) func(*cell, string, any, string) {
	return func(c *cell, _ string, reply any, msg string) {
		c.t.Helper()
		require.Equal(c.t, want, reply, msg)
		c.requireEntry(func(at int64) entry.Header {
			h := entry.Header{State: entry.Value, Token: token}
			lived(&h, want, at, fresh, cost, age)
			return h
		}, loaded, msg)
		c.requireTTL(keep, c.t0, msg)
	}
}

func TestStoreStoresWhereItsLeaseStillIs(t *testing.T) {
	t.Parallel()
	tabulate(t, script.Store,
		func(key string) []any { return storing(key, own, keepTTL, freshTTL) },
		row{others, unchanged(int64(0))},
		row{storedOwn, unchanged(int64(2))},
		row{"lease leaseAwaited leaseKept " + leasedOwn, replaced(1, own, keepTTL, freshTTL, took, age)},
		row{"leaseExpired leaseBoth " + leasedExpired, replaced(3, own, keepTTL, freshTTL, took, age)},
	)
}

func TestStoreKeepsAValueForeverIfItIsTold(t *testing.T) {
	t.Parallel()
	tabulate(t, script.Store,
		func(key string) []any { return storing(key, own, 0, 0) },
		row{others, unchanged(int64(0))},
		row{storedOwn, unchanged(int64(2))},
		row{"lease leaseAwaited leaseKept " + leasedOwn, replaced(1, own, 0, 0, took, age)},
		row{"leaseExpired leaseBoth " + leasedExpired, replaced(3, own, 0, 0, took, age)},
	)
}

func TestStoreOfNothingIsRememberedUnlessItWasExpiredMeanwhile(t *testing.T) {
	t.Parallel()
	tabulate(t, script.Store,
		func(key string) []any { return storingNone(key, own, keepTTL, freshTTL) },
		row{others, unchanged(int64(0))},
		row{storedOwn, unchanged(int64(2))},
		row{"lease leaseAwaited leaseKept " + leasedOwn, func(c *cell, _ string, reply any, msg string) {
			require.Equal(c.t, int64(1), reply, msg)
			c.requireEntry(func(at int64) entry.Header {
				h := entry.Header{State: entry.Absent, Token: own}
				lived(&h, 1, at, freshTTL, took, age)
				return h
			}, "", msg)
			c.requireTTL(keepTTL, c.t0, msg)
		}},
		row{"leaseExpired leaseBoth " + leasedExpired, gone(int64(3))},
	)
}

func TestRenewProlongsTheValueThatItsLeaseStandsOn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ keep, fresh time.Duration }{{keepTTL, freshTTL}, {leaseTTL, time.Millisecond}, {0, 0}} {
		renewed := func(want int64) func(*cell, string, any, string) {
			return func(c *cell, before string, reply any, msg string) {
				c.t.Helper()
				require.Equal(c.t, want, reply, msg)
				c.requireEdit(before, func(h *entry.Header, at int64) { lived(h, want, at, test.fresh, took, age) }, msg)
				c.requireTTL(test.keep, c.t0, msg)
			}
		}
		tabulate(t, script.Renew,
			func(string) []any { return renewing(own, test.keep, test.fresh) },
			row{others + ownLeases + "absentOwn", unchanged(int64(0))}, // a lease without a value has nothing to renew
			row{without(storedOwn, "absentOwn"), unchanged(int64(2))},
			row{leasedOwn, renewed(1)},
			row{leasedExpired, renewed(3)},
		)
	}
}

func TestWriteWritesWhateverIsThere(t *testing.T) {
	t.Parallel()
	token := entry.NewToken()
	tabulate(t, script.Write,
		func(key string) []any { return writing(key, token, keepTTL, freshTTL) },
		row{everything, replaced(1, token, keepTTL, freshTTL, 0, 0)},
	)
	tabulate(t, script.Write,
		func(key string) []any { return writing(key, token, 0, 0) },
		row{everything, replaced(1, token, 0, 0, 0, 0)},
	)
}

func TestExtendProlongsItsOwnLeaseOnly(t *testing.T) {
	t.Parallel()
	tabulate(t, script.Extend,
		func(string) []any { return extending(own) },
		row{others + storedOwn, unchanged(int64(0))},
		row{without(ownLeases, expiredLeases), unchanged(int64(1))}, // their TTL is already longer
		row{expiredLeases, unchanged(int64(2))},
		row{leasedOwn, edited(int64(1), prolonged)},
		row{leasedExpired, edited(int64(2), prolonged)},
	)
}

func prolonged(h *entry.Header, at int64) { h.Till = at + leaseTTL.Milliseconds() }

// freed makes h a value without a lease.
func freed(h *entry.Header) { h.Flags, h.Token, h.Till = h.Flags&entry.Stale, entry.Token{}, 0 }

func TestReleaseGivesBackItsOwnLeaseOnly(t *testing.T) {
	t.Parallel()
	tabulate(t, script.Release,
		func(string) []any { return releasing(own) },
		row{others + storedOwn, unchanged(int64(0))},
		row{without(ownLeases, expiredLeases), gone(int64(1))},
		row{expiredLeases, gone(int64(2))},
		row{leasedOwn, edited(int64(1), func(h *entry.Header, _ int64) { freed(h) })},
		row{leasedExpired, edited(int64(2), func(h *entry.Header, _ int64) { freed(h) })},
	)
}

func TestReleaseDropsTheValueIfItIsTold(t *testing.T) {
	t.Parallel()
	tabulate(t, script.Release,
		func(string) []any { return dropping(own) },
		row{others + storedOwn, unchanged(int64(0))},
		row{without(ownLeases, expiredLeases) + leasedOwn, gone(int64(1))},
		row{expiredLeases + leasedExpired, gone(int64(2))},
	)
}

func TestReleaseMayLeaveAPause(t *testing.T) {
	t.Parallel()
	const pause = 7 * time.Second
	for most, capped := range map[time.Duration]time.Duration{
		maxPause:      pause << entry.MaxFails, // fails stood at 15
		5 * time.Hour: 5 * time.Hour,
	} {
		tabulate(t, script.Release,
			func(string) []any { return pausing(own, pause, most) },
			row{others + storedOwn, unchanged(int64(0))},
			row{without(ownLeases, expiredLeases), gone(int64(1))},
			row{expiredLeases, gone(int64(2))},
			row{without(leasedOwn, "leasedFailed"), edited(int64(1), func(h *entry.Header, at int64) {
				freed(h)
				h.Till, h.Fails = at+pause.Milliseconds(), 1
			})},
			row{"leasedFailed", edited(int64(1), func(h *entry.Header, at int64) {
				freed(h)
				h.Till, h.Fails = at+capped.Milliseconds(), entry.MaxFails
			})},
			row{leasedExpired, edited(int64(2), func(h *entry.Header, _ int64) { freed(h) })},
		)
	}
}

func TestExpireMakesAValueStaleAndMarksALoad(t *testing.T) {
	t.Parallel()
	stale := func(h *entry.Header, at int64) { h.Flags, h.Soft = h.Flags|entry.Stale, min(h.Soft, at) }
	mark := func(h *entry.Header, _ int64) { h.Flags |= entry.Expired }
	const free = "fresh forever stored stale staleKept storedStale released staleByHand staleByHandForever tooOld "
	const waiting = "paused pausedOver pausedFresh tooOldPaused "
	tabulate(t, script.Expire,
		func(string) []any { return nil },
		row{noEntry, unchanged(int64(0))},
		row{ownLeases + otherLeases, edited(int64(1), mark)},
		row{absents + "absentOld", gone(int64(1))},
		row{free, edited(int64(1), stale)},
		row{waiting, edited(int64(1), func(h *entry.Header, at int64) {
			stale(h, at)
			h.Till, h.Fails = 0, 0
		})},
		row{without(freshValues+staleValues, free, waiting) + ownValues + heldValues, edited(int64(1), func(h *entry.Header, at int64) {
			stale(h, at)
			mark(h, at)
		})},
	)
}

// After Expire, a load stores its value stale, so that the next reader loads
// again. The test runs the whole protocol as a cache does.
func TestExpireDuringALoadLeavesItStale(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		c, next := newCell(t, rdb), entry.NewToken()
		requireStale := func() {
			h := c.header()
			require.Equal(t, entry.Stale, h.Flags)
			require.LessOrEqual(t, h.Soft, c.t1)
		}
		require.Equal(t, []any{"G"}, c.do(script.Acquire, acquiring(own, ask{})...))
		require.Equal(t, int64(1), c.do(script.Expire))
		require.Equal(t, int64(2), c.do(script.Extend, extending(own)...))
		require.Equal(t, int64(3), c.do(script.Store, storing(c.key, own, keepTTL, freshTTL)...))
		requireStale()
		require.Equal(t, int64(2), c.do(script.Store, storing(c.key, own, keepTTL, freshTTL)...))

		// The same is true for a refresh.
		reply := c.do(script.Acquire, acquiring(next, ask{})...)
		require.Equal(t, []any{"R", c.raw()}, reply)
		require.Equal(t, int64(1), c.do(script.Expire))
		require.Equal(t, int64(3), c.do(script.Store, storing(c.key, next, keepTTL, freshTTL)...))
		requireStale()

		// The same is true for a refresh that finds the value unchanged.
		again := entry.NewToken()
		require.Equal(t, "R", c.do(script.Acquire, acquiring(again, ask{})...).([]any)[0])
		require.Equal(t, int64(1), c.do(script.Expire))
		require.Equal(t, int64(3), c.do(script.Renew, renewing(again, keepTTL, freshTTL)...))
		requireStale()
		require.Equal(t, int64(2), c.do(script.Renew, renewing(again, keepTTL, freshTTL)...))

		// A load without an Expire is fresh again.
		last := entry.NewToken()
		c.do(script.Acquire, acquiring(last, ask{})...)
		require.Equal(t, int64(1), c.do(script.Store, storing(c.key, last, keepTTL, freshTTL)...))
		require.Equal(t, []any{"V", c.raw()}, c.do(script.Acquire, acquiring(own, ask{})...))
	})
}
