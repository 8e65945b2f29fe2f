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

// granted wants a lease, and no value.
func granted(c *cell, _ string, reply any, msg string) {
	c.t.Helper()
	require.Equal(c.t, []any{"G"}, reply, msg)
	c.requireEntry(func(at int64) entry.Header {
		return entry.Header{State: entry.Lease, Token: own, Born: at, Cost: expected}
	}, "", msg)
	c.requireTTL(leaseTTL, c.t0, msg)
}

// refreshing wants a lease on the value, and the value. It ignores whether the
// value was expired by hand, and how many loads have failed: a load changes
// these.
func refreshing(c *cell, before string, reply any, msg string) {
	c.t.Helper()
	c.requireEdit(before, func(h *entry.Header, at int64) {
		h.Flags, h.Token, h.Till = h.Flags&entry.Stale, own, at+leaseTTL.Milliseconds()
	}, msg)
	require.Equal(c.t, []any{"R", c.raw()}, reply, msg)
	c.requireTTL(c.ttl, c.seeded, msg)
}

// reading wants the value, with a reply of a kind, and no change.
func reading(kind string) func(*cell, string, any, string) {
	return func(c *cell, before string, reply any, msg string) {
		c.t.Helper()
		unchanged([]any{kind, before})(c, before, reply, msg)
	}
}

// none wants the reply that there is no value, and no change.
var none = reading("N")

// held wants the reply that names the holder of the lease, and no change.
func held(c *cell, before string, reply any, msg string) {
	c.t.Helper()
	unchanged([]any{"W", before[26:36] + before[12:20]})(c, before, reply, msg)
	born := append([]byte{0, 0}, before[26:32]...)
	require.LessOrEqual(c.t, int64(binary.BigEndian.Uint64(born)), c.t1, msg)
}

// mark sets the flag that a process waits.
func mark(h *entry.Header, _ int64) { h.Flags |= entry.Awaited }

// heldAndAwaited wants the reply of held, and an entry marked as awaited.
func heldAndAwaited(c *cell, before string, reply any, msg string) {
	c.t.Helper()
	edited([]any{"W", before[26:36] + before[12:20]}, mark)(c, before, reply, msg)
}

// readingAndAwaited wants the reply of reading for a value that is not fresh,
// and an entry marked as awaited.
func readingAndAwaited(c *cell, before string, reply any, msg string) {
	c.t.Helper()
	edited([]any{"S", c.raw()}, mark)(c, before, reply, msg)
}

// acquire runs Acquire in every state.
func acquire(t *testing.T, a ask, rows ...row) {
	t.Helper()
	tabulate(t, script.Acquire, func(string) []any { return acquiring(own, a) }, rows...)
}

// without returns the words of list that are not in those.
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
	// A value that is of no use once it is stale is of use while it is fresh.
	acquire(t, ask{use: 1, want: script.Due}, // a nanosecond: less than a millisecond
		row{noEntry + ownLeases + absents + "absentOld", granted},
		row{otherLeases + heldValues, held},
		row{"fresh forever stored freshLeased " + untilGone, refreshing},
		row{"freshOtherLeased pausedFresh", reading("S")},
		// The clock was set back: they are stale, and have been for no time at
		// all.
		row{stalePast, refreshing},
		row{without(staleValues+ownValues, stalePast+untilGone) + pausedStale, granted},
	)
}

// untilGone has values with a TTL and no lease whose own end has passed,
// perhaps by the clock of a writer. stalePast has values that were expired by
// hand.
const (
	untilGone = "stale storedStale tooOld "
	stalePast = "staleByHand staleByHandForever staleByHandLeased "
)

func TestAcquireBelievesTheTTLOfAValueThatIsNeverServedStale(t *testing.T) {
	t.Parallel()
	acquire(t, ask{use: 1}, // a nanosecond: less than a millisecond
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
	// All pauses last another hour, after 2 failures, or after 1.
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
	// This asks for any entry.
	acquire(t, ask{want: script.Due},
		row{noEntry + ownLeases + absents + "absentOld", granted},
		row{otherLeases, held},
		row{"fresh forever stored freshLeased " + staleValues + ownValues, refreshing},
		row{"freshOtherLeased pausedFresh " + heldValues + pausedStale, reading("S")},
	)
	// This asks for the entry that was read.
	acquire(t, ask{want: script.Due, seen: other[:]},
		row{noEntry + ownLeases + "absentOld absentKnown absentKept", granted},
		row{otherLeases, held},
		row{"absentOwn", none},
		row{"fresh forever " + staleValues + ownValues, refreshing},
		row{"stored freshLeased pausedFresh", reading("V")},
		row{"freshOtherLeased " + heldValues + pausedStale, reading("S")},
	)
	// This asks for an entry that is no longer there.
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
		row{"otherLeasedFailed " + pausedStale, reading("S")}, // marked before; and no process loads
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
