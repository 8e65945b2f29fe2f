package script_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
)

// scripts has all scripts of the lease protocol.
var scripts = map[string]*script.Script{
	"acquire": script.Acquire, "store": script.Store, "renew": script.Renew, "write": script.Write,
	"extend": script.Extend, "release": script.Release, "expire": script.Expire,
}

// seedTTL is the TTL of a state at the beginning. It differs from all TTLs that
// scripts set, so that a test can tell whether it was kept.
const seedTTL = 77 * time.Minute

// old is the payload of a state that has one.
const old = "old payload\x00\xff"

// A state is a possible content of a key when a script runs.
type state struct {
	name  string
	setUp func(c *cell)
}

// entryState is a state with an entry. Soft and Till are relative to now unless
// they are 0 or Forever.
func entryState(name string, ttl time.Duration, h entry.Header) state {
	return state{name, func(c *cell) {
		h, now, payload := h, c.now(), ""
		if h.Soft != 0 && h.Soft != entry.Forever {
			h.Soft += now
		}
		if h.Till != 0 {
			h.Till += now
		}
		h.Born, h.Cost = now-5000, 321*time.Millisecond
		if h.State == entry.Value {
			payload = old
		}
		c.seed(c.entry(h, payload), ttl)
	}}
}

// rawState is a state with bytes that are not an entry, made of a stale value.
func rawState(name string, spoil func(b []byte) []byte) state {
	return state{name, func(c *cell) {
		b := []byte(c.entry(entry.Header{State: entry.Value, Token: own, Till: 1}, old))
		c.seed(string(spoil(b)), seedTTL)
	}}
}

// mended returns b with byte i set to x and the check corrected.
func mended(b []byte, i int, x byte) []byte {
	b[5] += x - b[i]
	b[i] = x
	return b
}

const hour = int64(time.Hour / time.Millisecond)

// states has all states that matter to a script, by name.
var states = []state{
	{"absent", func(*cell) {}},
	{"foreign", func(c *cell) { c.seed("hello", seedTTL) }},
	{"foreignLong", func(c *cell) { c.seed(strings.Repeat("hello", 20), 0) }},
	{"list", func(c *cell) { c.rdb.RPush(c.t.Context(), c.key, "a", "b") }},
	{"hash", func(c *cell) { c.rdb.HSet(c.t.Context(), c.key, "field", "x") }},
	rawState("empty", func([]byte) []byte { return nil }),
	rawState("cut", func(b []byte) []byte { return b[:entry.Size-1] }),
	rawState("wrongCheck", func(b []byte) []byte { b[5]++; return b }),
	rawState("wrongMagic", func(b []byte) []byte { return mended(b, 0, 0xC0) }),
	rawState("wrongFormat", func(b []byte) []byte { return mended(b, 2, 2) }),
	rawState("wrongState", func(b []byte) []byte { return mended(b, 3, 'X') }),

	entryState("lease", seedTTL, entry.Header{State: entry.Lease, Token: own}),
	entryState("leaseExpired", seedTTL, entry.Header{State: entry.Lease, Token: own, Flags: entry.Expired}),
	entryState("leaseAwaited", seedTTL, entry.Header{State: entry.Lease, Token: own, Flags: entry.Awaited}),
	entryState("leaseBoth", seedTTL, entry.Header{State: entry.Lease, Token: own, Flags: entry.Expired | entry.Awaited}),
	entryState("leaseKept", 0, entry.Header{State: entry.Lease, Token: own}),
	entryState("otherLease", seedTTL, entry.Header{State: entry.Lease, Token: other}),
	entryState("otherLeaseExpired", seedTTL, entry.Header{State: entry.Lease, Token: other, Flags: entry.Expired}),
	entryState("otherLeaseAwaited", seedTTL, entry.Header{State: entry.Lease, Token: other, Flags: entry.Awaited}),
	entryState("otherLeaseKept", 0, entry.Header{State: entry.Lease, Token: other}),

	entryState("fresh", seedTTL, entry.Header{State: entry.Value, Soft: hour, Token: other}),
	entryState("forever", 0, entry.Header{State: entry.Value, Soft: entry.Forever, Token: other}),
	entryState("stored", seedTTL, entry.Header{State: entry.Value, Soft: hour, Token: own}),
	// The clock of the server was set back after the lease was granted.
	entryState("freshLeased", seedTTL, entry.Header{State: entry.Value, Soft: hour, Token: own, Till: 2 * hour}),
	entryState("stale", seedTTL, entry.Header{State: entry.Value, Soft: -hour, Token: other}),
	entryState("staleKept", 0, entry.Header{State: entry.Value, Token: other}),
	entryState("storedStale", seedTTL, entry.Header{State: entry.Value, Token: own}),
	entryState("released", seedTTL, entry.Header{State: entry.Value, Soft: -hour}),
	entryState("leased", seedTTL, entry.Header{State: entry.Value, Soft: -hour, Token: own, Till: hour}),
	entryState("leasedExpired", seedTTL, entry.Header{State: entry.Value, Token: own, Till: hour, Flags: entry.Expired}),
	entryState("leasedAwaited", seedTTL, entry.Header{State: entry.Value, Token: own, Till: hour, Flags: entry.Awaited}),
	entryState("lapsed", seedTTL, entry.Header{State: entry.Value, Soft: -hour, Token: own, Till: -hour}),
	entryState("otherLeased", seedTTL, entry.Header{State: entry.Value, Soft: -hour, Token: other, Till: hour}),
	entryState("otherLeasedExpired", seedTTL, entry.Header{State: entry.Value, Token: other, Till: hour, Flags: entry.Expired}),
	entryState("otherLapsed", seedTTL, entry.Header{State: entry.Value, Soft: -hour, Token: other, Till: -hour, Flags: entry.Expired}),
	entryState("freshOtherLeased", seedTTL, entry.Header{State: entry.Value, Soft: hour, Token: other, Till: hour}),
	entryState("leasedFailed", seedTTL, entry.Header{State: entry.Value, Soft: -hour, Token: own, Till: hour, Fails: 15}),
	entryState("otherLeasedFailed", seedTTL, entry.Header{
		State: entry.Value, Soft: -hour, Token: other, Till: hour, Flags: entry.Awaited | entry.Stale, Fails: 14,
	}),

	// The clock of the server was set back after these were expired by hand.
	entryState("staleByHand", seedTTL, entry.Header{State: entry.Value, Flags: entry.Stale, Soft: hour, Token: other}),
	entryState("staleByHandForever", 0, entry.Header{State: entry.Value, Flags: entry.Stale, Soft: hour, Token: own}),
	entryState("staleByHandLeased", seedTTL, entry.Header{
		State: entry.Value, Flags: entry.Stale | entry.Expired, Soft: hour, Token: own, Till: hour, Fails: 2,
	}),

	entryState("paused", seedTTL, entry.Header{State: entry.Value, Soft: -hour, Till: hour, Fails: 2}),
	entryState("pausedOver", seedTTL, entry.Header{State: entry.Value, Soft: -hour, Till: -hour, Fails: 15}),
	entryState("pausedFresh", seedTTL, entry.Header{State: entry.Value, Soft: hour, Till: hour, Fails: 1}),

	// These are of no use to a caller that wants a value that is stale for at
	// most useTTL.
	entryState("tooOld", seedTTL, entry.Header{State: entry.Value, Soft: -3 * hour, Token: other}),
	entryState("tooOldPaused", seedTTL, entry.Header{State: entry.Value, Soft: -3 * hour, Till: hour, Fails: 2}),
	entryState("tooOldLeased", seedTTL, entry.Header{State: entry.Value, Soft: -3 * hour, Token: own, Till: hour}),
	entryState("tooOldLapsed", seedTTL, entry.Header{State: entry.Value, Soft: -3 * hour, Token: own, Till: -hour}),
	entryState("tooOldOtherLeased", seedTTL, entry.Header{State: entry.Value, Soft: -3 * hour, Token: other, Till: hour}),

	entryState("absentKnown", seedTTL, entry.Header{State: entry.Absent, Soft: hour, Token: other}),
	entryState("absentOwn", seedTTL, entry.Header{State: entry.Absent, Soft: hour, Token: own}),
	entryState("absentOld", seedTTL, entry.Header{State: entry.Absent, Soft: -hour, Token: other}),
	entryState("absentKept", 0, entry.Header{State: entry.Absent, Soft: entry.Forever, Token: other}),
	{"torn", func(c *cell) { // the header is valid, the payload is not
		h := entry.Header{State: entry.Value, Token: own, Soft: c.now() - hour, Till: c.now() + hour, Sum: 1}
		c.seed(string(h.Append(nil))+"torn", seedTTL)
	}},
}

// useTTL is how long a value is of use after it is stale, unless that is
// forever.
const useTTL = 2 * time.Hour

// noEntry has the states that no script treats as an entry.
const noEntry = "absent foreign foreignLong list hash empty cut wrongCheck wrongMagic wrongFormat wrongState "

// These are the states with an entry.
const (
	ownLeases   = "lease leaseExpired leaseAwaited leaseBoth leaseKept "
	otherLeases = "otherLease otherLeaseExpired otherLeaseAwaited otherLeaseKept "
	absents     = "absentKnown absentOwn absentKept "
	freshValues = "fresh forever stored freshLeased freshOtherLeased pausedFresh "
	staleValues = "stale staleKept storedStale released lapsed otherLapsed staleByHand staleByHandForever pausedOver tooOld tooOldLapsed "
	heldValues  = "otherLeased otherLeasedExpired otherLeasedFailed tooOldOtherLeased "
	pausedStale = "paused tooOldPaused "
	ownValues   = "leased leasedExpired leasedAwaited leasedFailed staleByHandLeased tooOldLeased torn " // own has the lease

	everything = noEntry + ownLeases + otherLeases + absents + "absentOld " +
		freshValues + staleValues + heldValues + pausedStale + ownValues
)

// These are the same states for scripts of a holder of the token own.
const (
	leasedOwn     = "leased leasedAwaited leasedFailed tooOldLeased lapsed tooOldLapsed freshLeased torn " // values with its lease
	leasedExpired = "leasedExpired staleByHandLeased "                                                     // likewise, expired meanwhile
	storedOwn     = "stored storedStale staleByHandForever absentOwn "                                     // no longer a lease
	others        = noEntry + otherLeases + heldValues + pausedStale + "absentKnown absentOld absentKept " +
		"fresh forever freshOtherLeased pausedFresh stale staleKept released otherLapsed staleByHand pausedOver tooOld "
)

// A row tells the effect of a script in some states, which are named by words.
type row struct {
	states string
	want   func(c *cell, before string, reply any, msg string)
}

// tabulate runs a script in every state. Each must be in one row.
func tabulate(t *testing.T, s *script.Script, args func(key string) []any, rows ...row) {
	t.Helper()
	wants := map[string]func(*cell, string, any, string){}
	for _, r := range rows {
		for _, name := range strings.Fields(r.states) {
			require.True(t, slices.ContainsFunc(states, func(s state) bool { return s.name == name }), "state %s is unknown", name)
			require.NotContains(t, wants, name, "the table has it twice")
			wants[name] = r.want
		}
	}
	require.Len(t, wants, len(states), "the table lacks a state")
	each(t, func(t *testing.T, rdb *redis.Client) {
		for _, st := range states {
			c := newCell(t, rdb)
			st.setUp(c)
			before := c.snapshot()
			reply := c.do(s, args(c.key)...)
			wants[st.name](c, before, reply, st.name)
		}
	})
}

// expiredLeases has leases of the token own that were expired while they were
// held.
const expiredLeases = "leaseExpired leaseBoth "

// unchanged wants a reply, and the key as it was.
func unchanged(want any) func(*cell, string, any, string) {
	return func(c *cell, before string, reply any, msg string) {
		c.t.Helper()
		require.Equal(c.t, want, reply, msg)
		require.Equal(c.t, before, c.snapshot(), msg)
		if before != "none" {
			c.requireTTL(c.ttl, c.seeded, msg)
		}
	}
}

// edited wants a reply, the header changed by change, and no other change.
func edited(want any, change func(h *entry.Header, at int64)) func(*cell, string, any, string) {
	return func(c *cell, before string, reply any, msg string) {
		c.t.Helper()
		require.Equal(c.t, want, reply, msg)
		c.requireEdit(before, change, msg)
		c.requireTTL(c.ttl, c.seeded, msg)
	}
}

// gone wants a reply, and no key.
func gone(want any) func(*cell, string, any, string) {
	return func(c *cell, _ string, reply any, msg string) {
		c.t.Helper()
		require.Equal(c.t, want, reply, msg)
		require.Equal(c.t, "none", c.snapshot(), msg)
	}
}

// requireEdit fails unless the entry is before with change made to its header.
func (c *cell) requireEdit(before string, change func(h *entry.Header, at int64), msg string) {
	c.t.Helper()
	h, _, _ := entry.Parse(c.key, []byte(before))
	require.NotZero(c.t, h, "%s: %q has no header", msg, before)
	got := c.raw()
	for at := c.t0; at <= c.t1; at++ {
		want := h
		change(&want, at)
		if got == string(want.Append(nil))+before[entry.Size:] {
			return
		}
	}
	change(&h, c.t0)
	require.Equal(c.t, string(h.Append(nil))+before[entry.Size:], got, msg)
}
