package script_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
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

// refreshing wants a lease on the stale value, and the value.
func refreshing(c *cell, before string, reply any, msg string) {
	c.t.Helper()
	c.requireEdit(before, func(h *entry.Header, at int64) {
		h.Flags, h.Token, h.Till = 0, own, at+leaseTTL.Milliseconds()
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

// held wants to hear who loads, and no change.
func held(c *cell, before string, reply any, msg string) {
	c.t.Helper()
	unchanged([]any{"W", before[26:36]})(c, before, reply, msg)
	born := append([]byte{0, 0}, before[26:32]...)
	require.LessOrEqual(c.t, int64(binary.BigEndian.Uint64(born)), c.t1, msg)
}

// heldAndAwaited is held, but the entry then says that somebody waits.
func heldAndAwaited(c *cell, before string, reply any, msg string) {
	c.t.Helper()
	edited([]any{"W", before[26:36]}, func(h *entry.Header, _ int64) { h.Flags |= entry.Awaited })(c, before, reply, msg)
}

const (
	ownLeases   = "lease leaseExpired leaseAwaited leaseBoth leaseKept "
	otherLeases = "otherLease otherLeaseExpired otherLeaseAwaited otherLeaseKept "
	freshValues = "fresh forever stored freshLeased "
	heldValues  = "otherLeased otherLeasedExpired "
	staleValues = "stale staleKept storedStale released lapsed otherLapsed "
	ownValues   = "leased leasedExpired leasedAwaited torn " // whose lease is that of own
)

func TestAcquireGrantsWhereNothingIsToBeLostAndNobodyLoads(t *testing.T) {
	t.Parallel()
	tabulate(t, script.Acquire,
		func(string) []any { return acquiring(own, nil, false, false) },
		row{noEntry + ownLeases, granted},
		row{otherLeases, held},
		row{freshValues, reading("V")},
		row{staleValues + ownValues, refreshing},
		row{heldValues, reading("S")},
	)
}

func TestAcquireReplacesTheVeryEntryThatIsUnfit(t *testing.T) {
	t.Parallel()
	tabulate(t, script.Acquire,
		func(string) []any { return acquiring(own, other[:], false, false) },
		row{noEntry + ownLeases + otherLeases, granted},
		row{"fresh forever stale staleKept otherLapsed " + heldValues, granted},
		row{"stored freshLeased", reading("V")},
		row{"storedStale released lapsed " + ownValues, refreshing},
	)
	// The token of a value whose load failed is zero.
	tabulate(t, script.Acquire,
		func(string) []any { return acquiring(own, make([]byte, 8), false, false) },
		row{noEntry + ownLeases + "released", granted},
		row{otherLeases, held},
		row{freshValues, reading("V")},
		row{"stale staleKept storedStale lapsed otherLapsed " + ownValues, refreshing},
		row{heldValues, reading("S")},
	)
}

func TestAcquireMarksTheLeaseThatItsCallerWaitsFor(t *testing.T) {
	t.Parallel()
	tabulate(t, script.Acquire,
		func(string) []any { return acquiring(own, nil, true, false) },
		row{noEntry + ownLeases, granted},
		row{"otherLease otherLeaseExpired otherLeaseKept", heldAndAwaited},
		row{"otherLeaseAwaited", held},
		row{freshValues, reading("V")},
		row{staleValues + ownValues, refreshing},
		row{heldValues, func(c *cell, before string, reply any, msg string) {
			c.t.Helper()
			c.requireEdit(before, func(h *entry.Header, _ int64) { h.Flags |= entry.Awaited }, msg)
			require.Equal(c.t, []any{"S", c.raw()}, reply, msg)
			c.requireTTL(c.ttl, c.seeded, msg)
		}},
	)
}

func TestAcquireGivesASuspectLeaseWithoutTTLOne(t *testing.T) {
	t.Parallel()
	tabulate(t, script.Acquire,
		func(string) []any { return acquiring(own, nil, false, true) },
		row{noEntry + ownLeases, granted},
		row{"otherLease otherLeaseExpired otherLeaseAwaited", held},
		row{"otherLeaseKept", func(c *cell, before string, reply any, msg string) {
			require.Equal(c.t, []any{"W", before[26:36]}, reply, msg)
			require.Equal(c.t, before, c.raw(), msg)
			c.requireTTL(leaseTTL, c.t0, msg)
		}},
		row{freshValues, reading("V")},
		row{staleValues + ownValues, refreshing},
		row{heldValues, reading("S")},
	)
}

// replaced wants a reply and a new value with these flags of time.
func replaced(want int64, token entry.Token, keep, fresh time.Duration, cost, age time.Duration) func(*cell, string, any, string) {
	return func(c *cell, _ string, reply any, msg string) {
		c.t.Helper()
		require.Equal(c.t, want, reply, msg)
		c.requireEntry(func(at int64) entry.Header {
			h := entry.Header{State: entry.Value, Token: token, Born: at - age.Milliseconds(), Cost: cost}
			switch {
			case want == 3:
			case fresh == 0:
				h.Soft = entry.Forever
			default:
				h.Soft = at + fresh.Milliseconds()
			}
			return h
		}, loaded, msg)
		c.requireTTL(keep, c.t0, msg)
	}
}

const otherValues = "fresh forever stale staleKept released otherLapsed " // whose token is not own

func TestStoreStoresWhereItsLeaseStillIs(t *testing.T) {
	t.Parallel()
	tabulate(t, script.Store,
		func(key string) []any { return storing(key, own, keepTTL, freshTTL) },
		row{noEntry + otherLeases + otherValues + heldValues, unchanged(int64(0))},
		row{"stored storedStale", unchanged(int64(2))},
		row{"lease leaseAwaited leaseKept leased leasedAwaited lapsed freshLeased torn", replaced(1, own, keepTTL, freshTTL, took, age)},
		row{"leaseExpired leaseBoth leasedExpired", replaced(3, own, keepTTL, freshTTL, took, age)},
	)
}

func TestStoreKeepsAValueForeverIfItIsTold(t *testing.T) {
	t.Parallel()
	tabulate(t, script.Store,
		func(key string) []any { return storing(key, own, 0, 0) },
		row{noEntry + otherLeases + otherValues + heldValues, unchanged(int64(0))},
		row{"stored storedStale", unchanged(int64(2))},
		row{"lease leaseAwaited leaseKept leased leasedAwaited lapsed freshLeased torn", replaced(1, own, 0, 0, took, age)},
		row{"leaseExpired leaseBoth leasedExpired", replaced(3, own, 0, 0, took, age)},
	)
}

const everything = noEntry + ownLeases + otherLeases + freshValues + staleValues + ownValues + heldValues

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
		func(string) []any { return []any{own[:], leaseTTL.Milliseconds()} },
		row{noEntry + otherLeases + otherValues + heldValues + "stored storedStale", unchanged(int64(0))},
		row{ownLeases, unchanged(int64(1))}, // whose TTL is longer already
		row{ownValues + "lapsed freshLeased", edited(int64(1), func(h *entry.Header, at int64) {
			h.Till = at + leaseTTL.Milliseconds()
		})},
	)
}

func TestReleaseGivesBackItsOwnLeaseOnly(t *testing.T) {
	t.Parallel()
	tabulate(t, script.Release,
		func(string) []any { return []any{own[:]} },
		row{noEntry + otherLeases + otherValues + heldValues + "stored storedStale", unchanged(int64(0))},
		row{ownLeases, func(c *cell, _ string, reply any, msg string) {
			require.Equal(c.t, int64(1), reply, msg)
			require.Equal(c.t, "none", c.snapshot(), msg)
		}},
		row{ownValues + "lapsed freshLeased", edited(int64(1), func(h *entry.Header, _ int64) {
			h.Flags, h.Token, h.Till = 0, entry.Token{}, 0
		})},
	)
}

func TestExpireMakesAValueStaleAndMarksALoad(t *testing.T) {
	t.Parallel()
	stale := func(h *entry.Header, _ int64) { h.Soft = 0 }
	mark := func(h *entry.Header, _ int64) { h.Flags |= entry.Expired }
	tabulate(t, script.Expire,
		func(string) []any { return nil },
		row{noEntry, unchanged(int64(0))},
		row{ownLeases + otherLeases, edited(int64(1), mark)},
		row{"fresh forever stored stale staleKept storedStale released", edited(int64(1), stale)},
		row{ownValues + heldValues + "lapsed otherLapsed freshLeased", edited(int64(1), func(h *entry.Header, at int64) {
			stale(h, at)
			mark(h, at)
		})},
	)
}

// What a load stores after Expire is stale, so that the next reader loads again:
// the whole of it, as a cache runs it.
func TestExpireDuringALoadLeavesItStale(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		c, next := newCell(t, rdb), entry.NewToken()
		require.Equal(t, []any{"G"}, c.do(script.Acquire, acquiring(own, nil, false, false)...))
		require.Equal(t, int64(1), c.do(script.Expire))
		require.Equal(t, int64(1), c.do(script.Extend, own[:], leaseTTL.Milliseconds()))
		require.Equal(t, int64(3), c.do(script.Store, storing(c.key, own, keepTTL, freshTTL)...))
		require.Zero(t, c.header().Soft)
		require.Equal(t, int64(2), c.do(script.Store, storing(c.key, own, keepTTL, freshTTL)...))

		// And of a refresh.
		reply := c.do(script.Acquire, acquiring(next, nil, false, false)...)
		require.Equal(t, []any{"R", c.raw()}, reply)
		require.Equal(t, int64(1), c.do(script.Expire))
		require.Equal(t, int64(3), c.do(script.Store, storing(c.key, next, keepTTL, freshTTL)...))
		require.Zero(t, c.header().Soft)

		// One without an Expire is fresh again.
		last := entry.NewToken()
		c.do(script.Acquire, acquiring(last, nil, false, false)...)
		require.Equal(t, int64(1), c.do(script.Store, storing(c.key, last, keepTTL, freshTTL)...))
		require.Equal(t, []any{"V", c.raw()}, c.do(script.Acquire, acquiring(own, nil, false, false)...))
	})
}
