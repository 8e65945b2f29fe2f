package script_test

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
)

// granted wants a lease where there was no value.
func granted(c *cell, _ string, reply any, msg string) {
	c.t.Helper()
	require.Equal(c.t, []any{"G"}, reply, msg)
	c.requireEntry(func(at int64) entry.Header {
		return entry.Header{State: entry.Lease, Token: own, Born: at, Cost: expected}
	}, "", msg)
	c.requireTTL(leaseTTL, c.t0, msg)
}

// refreshing wants a lease on the value, and the value. That it was expired by
// hand, and how many loads have failed, is for a load to change.
func refreshing(c *cell, before string, reply any, msg string) {
	c.t.Helper()
	c.requireEdit(before, func(h *entry.Header, at int64) {
		h.Flags, h.Token, h.Till = h.Flags&entry.Stale, own, at+leaseTTL.Milliseconds()
	}, msg)
	require.Equal(c.t, []any{"R", c.raw()}, reply, msg)
	c.requireTTL(c.ttl, c.seeded, msg)
}

// reading wants the value, of a kind, and no change.
func reading(kind string) func(*cell, string, any, string) {
	return func(c *cell, before string, reply any, msg string) {
		c.t.Helper()
		unchanged([]any{kind, before})(c, before, reply, msg)
	}
}

// none wants to hear that there is no value, and no change.
var none = reading("N")

// held wants to hear who loads, and no change.
func held(c *cell, before string, reply any, msg string) {
	c.t.Helper()
	unchanged([]any{"W", before[26:36] + before[12:20]})(c, before, reply, msg)
	born := append([]byte{0, 0}, before[26:32]...)
	require.LessOrEqual(c.t, int64(binary.BigEndian.Uint64(born)), c.t1, msg)
}

// mark says that somebody waits.
func mark(h *entry.Header, _ int64) { h.Flags |= entry.Awaited }

// heldAndAwaited is held, but the entry then says that somebody waits.
func heldAndAwaited(c *cell, before string, reply any, msg string) {
	c.t.Helper()
	edited([]any{"W", before[26:36] + before[12:20]}, mark)(c, before, reply, msg)
}

// readingAndAwaited is reading of a value that is not fresh, which then says that
// somebody waits.
func readingAndAwaited(c *cell, before string, reply any, msg string) {
	c.t.Helper()
	edited([]any{"S", c.raw()}, mark)(c, before, reply, msg)
}

// acquire runs Acquire in every state.
func acquire(t *testing.T, a ask, rows ...row) {
	t.Helper()
	tabulate(t, script.Acquire, func(string) []any { return acquiring(own, a) }, rows...)
}

// without returns the words of list that are not among those.
func without(list string, those ...string) string {
	var rest []string
	not := " " + strings.Join(those, " ") + " "
	for _, name := range strings.Fields(list) {
		if !strings.Contains(not, " "+name+" ") {
			rest = append(rest, name)
		}
	}
	return strings.Join(rest, " ") + " "
}

func TestAcquireGrantsWhereNothingIsToBeLostAndNobodyLoads(t *testing.T) {
	t.Parallel()
	acquire(t, ask{},
		row{noEntry + ownLeases + "absentOld", granted},
		row{otherLeases, held},
		row{absents, none},
		row{freshValues, reading("V")},
		row{staleValues + ownValues, refreshing},
		row{heldValues + pausedStale, reading("S")},
	)
}

// These have been stale for longer than useTTL.
const (
	uselessFree  = "staleKept storedStale tooOld tooOldLapsed tooOldPaused leasedExpired leasedAwaited tooOldLeased "
	uselessOther = "otherLeasedExpired tooOldOtherLeased "
	useless      = uselessFree + uselessOther
)

func TestAcquireTakesAValueThatIsTooOldForNone(t *testing.T) {
	t.Parallel()
	acquire(t, ask{use: useTTL},
		row{noEntry + ownLeases + "absentOld", granted},
		row{otherLeases, held},
		row{absents, none},
		row{freshValues, reading("V")},
		row{without(staleValues+ownValues, useless), refreshing},
		row{without(heldValues+pausedStale, useless), reading("S")},
		row{uselessFree, granted},
		row{uselessOther, held},
	)
	// A value that is of no use when it is stale, is of use while it is fresh.
	acquire(t, ask{use: 1, want: script.Due}, // a nanosecond: no whole millisecond
		row{noEntry + ownLeases + absents + "absentOld", granted},
		row{otherLeases + heldValues, held},
		row{"fresh forever stored freshLeased " + untilGone, refreshing},
		row{"freshOtherLeased pausedFresh", reading("S")},
		// The clock was set back: they are stale, and for no time at all.
		row{stalePast, refreshing},
		row{without(staleValues+ownValues, stalePast+untilGone) + pausedStale, granted},
	)
}

// Values whose own end has passed, by the clock of a writer perhaps, and that still
// have a TTL and no lease; and values that were expired by hand.
const (
	untilGone = "stale storedStale tooOld "
	stalePast = "staleByHand staleByHandForever staleByHandLeased "
)

func TestAcquireBelievesTheTTLOfAValueThatIsNeverServedStale(t *testing.T) {
	t.Parallel()
	acquire(t, ask{use: 1}, // a nanosecond: no whole millisecond
		row{noEntry + ownLeases + "absentOld", granted},
		row{otherLeases + heldValues, held},
		row{absents, none},
		row{freshValues + untilGone, reading("V")},
		row{stalePast, refreshing},
		row{without(staleValues+ownValues, stalePast+untilGone) + pausedStale, granted}, // staleKept has lost its TTL
	)
}

func TestAcquireEndsAPauseThatIsLongerThanAny(t *testing.T) {
	t.Parallel()
	// All are for an hour yet, after 2 failures, or after 1.
	for _, a := range []ask{{pause: 30 * time.Minute, most: 2 * time.Hour}, {pause: time.Hour, most: time.Hour}} {
		acquire(t, a,
			row{noEntry + ownLeases + "absentOld", granted},
			row{otherLeases, held},
			row{absents, none},
			row{freshValues, reading("V")},
			row{staleValues + ownValues, refreshing},
			row{heldValues + pausedStale, reading("S")},
		)
	}
	for _, a := range []ask{{pause: 29 * time.Minute, most: 2 * time.Hour}, {pause: time.Hour, most: 59 * time.Minute}} {
		acquire(t, a,
			row{noEntry + ownLeases + "absentOld", granted},
			row{otherLeases, held},
			row{absents, none},
			row{freshValues, reading("V")},
			row{staleValues + ownValues + pausedStale, refreshing},
			row{heldValues, reading("S")},
		)
	}
}

func TestAcquireReplacesTheVeryEntryThatIsUnfit(t *testing.T) {
	t.Parallel()
	ofOther := "fresh forever freshOtherLeased stale staleKept staleByHand otherLapsed tooOld absentKnown absentKept " + heldValues
	acquire(t, ask{want: script.Unfit, seen: other[:]},
		row{noEntry + ownLeases + otherLeases + ofOther + "absentOld", granted},
		row{"absentOwn", none},
		row{without(freshValues, ofOther), reading("V")},
		row{without(staleValues+ownValues, ofOther), refreshing},
		row{pausedStale, reading("S")},
	)
	// The token of a value whose load failed is zero.
	const ofNobody = "released paused pausedOver pausedFresh tooOldPaused "
	acquire(t, ask{want: script.Unfit, seen: make([]byte, 8)},
		row{noEntry + ownLeases + ofNobody + "absentOld", granted},
		row{otherLeases, held},
		row{absents, none},
		row{without(freshValues, ofNobody), reading("V")},
		row{without(staleValues, ofNobody) + ownValues, refreshing},
		row{heldValues, reading("S")},
	)
}

func TestAcquireGivesTheLeaseOnAFreshValueThatIsDue(t *testing.T) {
	t.Parallel()
	// Whatever is there.
	acquire(t, ask{want: script.Due},
		row{noEntry + ownLeases + absents + "absentOld", granted},
		row{otherLeases, held},
		row{"fresh forever stored freshLeased " + staleValues + ownValues, refreshing},
		row{"freshOtherLeased pausedFresh " + heldValues + pausedStale, reading("S")},
	)
	// The entry that was read.
	acquire(t, ask{want: script.Due, seen: other[:]},
		row{noEntry + ownLeases + "absentOld absentKnown absentKept", granted},
		row{otherLeases, held},
		row{"absentOwn", none},
		row{"fresh forever " + staleValues + ownValues, refreshing},
		row{"stored freshLeased pausedFresh", reading("V")},
		row{"freshOtherLeased " + heldValues + pausedStale, reading("S")},
	)
	// An entry that is not there any more.
	acquire(t, ask{want: script.Due, seen: []byte("replaced")},
		row{noEntry + ownLeases + "absentOld", granted},
		row{otherLeases, held},
		row{absents, none},
		row{freshValues, reading("V")},
		row{staleValues + ownValues, refreshing},
		row{heldValues + pausedStale, reading("S")},
	)
	acquire(t, ask{want: script.Due, seen: make([]byte, 8), use: useTTL},
		row{noEntry + ownLeases + "absentOld", granted},
		row{otherLeases, held},
		row{absents, none},
		row{without(freshValues, "pausedFresh"), reading("V")},
		row{without(staleValues+ownValues, useless), refreshing},
		row{without("pausedFresh "+heldValues+pausedStale, useless), reading("S")},
		row{uselessFree, granted},
		row{uselessOther, held},
	)
}

func TestAcquireNowTakesTheLeaseWhoeverHasIt(t *testing.T) {
	t.Parallel()
	empty := noEntry + ownLeases + otherLeases + absents + "absentOld "
	values := freshValues + staleValues + heldValues + pausedStale + ownValues
	acquire(t, ask{want: script.Now}, row{empty, granted}, row{values, refreshing})
	acquire(t, ask{want: script.Now, seen: other[:], hint: true, suspect: true, use: useTTL},
		row{empty + useless, granted},
		row{without(values, useless), refreshing},
	)
}

func TestAcquireMarksTheLeaseThatItsCallerWaitsFor(t *testing.T) {
	t.Parallel()
	acquire(t, ask{hint: true},
		row{noEntry + ownLeases + "absentOld", granted},
		row{"otherLease otherLeaseExpired otherLeaseKept", heldAndAwaited},
		row{"otherLeaseAwaited", held},
		row{absents, none},
		row{freshValues, reading("V")},
		row{staleValues + ownValues, refreshing},
		row{"otherLeased otherLeasedExpired tooOldOtherLeased", readingAndAwaited},
		row{"otherLeasedFailed " + pausedStale, reading("S")}, // marked before; and nobody loads
	)
	acquire(t, ask{hint: true, use: useTTL},
		row{noEntry + ownLeases + "absentOld", granted},
		row{"otherLease otherLeaseExpired otherLeaseKept", heldAndAwaited},
		row{"otherLeaseAwaited", held},
		row{absents, none},
		row{freshValues, reading("V")},
		row{without(staleValues+ownValues, useless), refreshing},
		row{"otherLeased", readingAndAwaited},
		row{"otherLeasedFailed paused", reading("S")},
		row{uselessFree, granted},
		row{uselessOther, heldAndAwaited},
	)
}

func TestAcquireCutsASuspectLeaseToItsLength(t *testing.T) {
	t.Parallel()
	cut := func(h *entry.Header, at int64) { h.Till = min(h.Till, at+leaseTTL.Milliseconds()) }
	acquire(t, ask{suspect: true},
		row{noEntry + ownLeases + "absentOld", granted},
		row{otherLeases, func(c *cell, before string, reply any, msg string) {
			require.Equal(c.t, []any{"W", before[26:36] + before[12:20]}, reply, msg)
			require.Equal(c.t, before, c.raw(), msg)
			c.requireTTL(leaseTTL, c.t0, msg)
		}},
		row{absents, none},
		row{freshValues, reading("V")},
		row{staleValues + ownValues, refreshing},
		row{pausedStale, reading("S")},
		row{heldValues, func(c *cell, before string, reply any, msg string) {
			c.requireEdit(before, cut, msg)
			require.Equal(c.t, []any{"S", c.raw()}, reply, msg)
		}},
	)
}
