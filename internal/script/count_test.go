package script_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
)

func TestAddCountAddsToWhatIsFreshAndBeginsOrRefusesElsewhere(t *testing.T) {
	t.Parallel()
	for _, behind := range []bool{false, true} {
		for _, once := range []bool{false, true} {
			for _, missing := range []string{"0", "1", "p"} {
				if missing == "p" && !behind {
					continue
				}
				t.Run(fmt.Sprint(behind, once, missing), func(t *testing.T) {
					t.Parallel()
					eachCount(t, func(c *counting, name, before string, h entry.Header, was string) {
						pending := ""
						total := "5"
						reply := c.add(behind, once, "5", freshTTL, missing)
						switch {
						case was != "" && usable(c, h):
							total, pending = "46", "5"
							require.Equal(c.t, []any{"A", "46"}, reply, name)
							c.requireCount(func(at int64) entry.Header {
								h := h
								h.Flags |= entry.Count
								h.Soft = at + freshTTL.Milliseconds()
								return h
							}, "46", name)
							keep, since := freshTTL, c.t0
							if h.Till != 0 && c.ttl > keep {
								keep, since = c.ttl, c.seeded-1 // otherwise the lease would end too soon; PTTL leaves out a fraction as well
							}
							c.requireTTL(keep, since, name)
						case missing == "1":
							pending = "5"
							require.Equal(c.t, []any{"A", "5"}, reply, name)
							c.requireCount(func(at int64) entry.Header {
								return entry.Header{
									State: entry.Value, Flags: entry.Count, Token: own, Soft: at + freshTTL.Milliseconds(), Born: at,
								}
							}, "5", name)
							c.requireTTL(freshTTL, c.t0, name)
						case missing == "p":
							pending = "5"
							require.Equal(c.t, []any{"P"}, reply, name)
							c.requireUnchanged(before, name)
						default:
							require.Equal(c.t, []any{"M"}, reply, name)
							c.requireUnchanged(before, name)
						}
						if !behind {
							pending = ""
						}
						require.Equal(c.t, pending, c.rdb.HGet(c.t.Context(), c.pending, "id").Val(), name)
						op := c.rdb.Get(c.t.Context(), c.op).Val()
						if !once || reply[0] != "A" {
							require.Empty(c.t, op, name)
							return
						}
						require.Equal(c.t, total, op, name)
						left := c.rdb.PTTL(c.t.Context(), c.op).Val()
						require.LessOrEqual(c.t, left, onceTTL)
						require.Greater(c.t, left, onceTTL-time.Minute)
						after, at := c.raw(), c.rdb.HGetAll(c.t.Context(), c.pending).Val()
						require.Equal(c.t, []any{"D", total}, c.add(behind, once, "7", keepTTL, missing), name)
						require.Equal(c.t, after, c.raw(), name)
						require.Equal(c.t, at, c.rdb.HGetAll(c.t.Context(), c.pending).Val(), name)
					})
				})
			}
		}
	}
}

// requireUnchanged fails unless the key holds the same content, with the same
// TTL.
func (c *counting) requireUnchanged(before, msg string) {
	c.t.Helper()
	require.Equal(c.t, before, c.snapshot(), msg)
	if before != "none" {
		c.requireTTL(c.ttl, c.seeded, msg)
	}
}

func TestACountIsKeptForeverIfItIsTold(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounting(newCell(t, rdb))
		for i := range 2 {
			require.Equal(t, []any{"A", strconv.Itoa(i + 1)}, c.add(false, false, "1", 0, "1"))
			require.Equal(t, entry.Forever, c.header().Soft)
			c.requireTTL(0, c.t0)
		}
	})
}

// After SetCount, the pending data is the count itself, for any earlier state.
func TestSetCount_HasTheTotalPending(t *testing.T) {
	t.Parallel()
	eachCount(t, func(c *counting, name, before string, h entry.Header, was string) {
		require.NoError(c.t, c.rdb.HSet(c.t.Context(), c.pending, "id", "5").Err())
		pending := func() string { return c.rdb.HGet(c.t.Context(), c.pending, "id").Val() }
		require.EqualValues(c.t, 1, c.value(script.SetCount, []string{c.pending}, own[:], millis(freshTTL), "-7", "id"), name)
		got, payload, ok := entry.Parse(c.key, []byte(c.raw()))
		require.True(c.t, ok, name)
		require.Equal(c.t, "-7", string(payload), name)
		require.Equal(c.t, own, got.Token, name)
		require.Equal(c.t, "=-7", pending(), name)
		require.Equal(c.t, []any{"A", "3"}, c.add(true, false, "10", keepTTL, "0"), name)
		require.Equal(c.t, "=3", pending(), "what is added later is part of it")
		require.NoError(c.t, c.rdb.Del(c.t.Context(), c.key).Err())
		require.Equal(c.t, []any{"P"}, c.add(true, false, "-1", keepTTL, "p"), name)
		require.Equal(c.t, "=2", pending(), name)
	})
}

// A total that is pending, or in flight, replaces the loaded count.
func TestLandCount_StoresATotalThatIsPendingOrInFlight(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		for i, tc := range []struct{ unread, flying, pending, want string }{
			{"", "0", "=7", "7"}, {"", "20", "=7", "7"}, {"", "=20", "3", "23"}, {"", "=20", "=7", "7"}, {"", "=20", "", "20"},
			{"", "20", "3", "123"}, {"4", "20", "3", "127"}, {"=4", "20", "3", "27"}, {"4", "=20", "3", "23"}, {"=4", "0", "=7", "7"},
		} {
			c := newCounting(newCell(t, rdb))
			h := entry.Header{State: entry.Lease, Token: own, Till: c.now() + hour}
			c.seed(c.entry(h, ""), seedTTL)
			if tc.pending != "" {
				require.NoError(t, rdb.HSet(t.Context(), c.pending, "id", tc.pending).Err())
			}
			if tc.unread != "" {
				require.NoError(t, rdb.HSet(t.Context(), c.unread, "id", tc.unread).Err())
			}
			args := landing(keepTTL, "100", "", "", "0", script.Whatever)
			args[len(args)-1] = tc.flying
			require.Equal(t, []any{"S", tc.want}, c.run(script.LandCount(true), c.bucket(), args...), i)
		}
	})
}

func TestLandCountStoresUnderItsLeaseAndAddsWhatHasComeSince(t *testing.T) {
	t.Parallel()
	for _, behind := range []bool{false, true} {
		for _, granted := range []string{"", "40"} {
			t.Run(fmt.Sprint(behind, granted), func(t *testing.T) {
				t.Parallel()
				eachCount(t, func(c *counting, name, before string, h entry.Header, was string) {
					var more []string
					want := "1000"
					if behind {
						more, want = c.bucket(), "1007"
						c.rdb.HSet(c.t.Context(), c.pending, "id", "7")
					} else if was != "" && granted != "" {
						want = "1001"
					}
					reply := c.run(script.LandCount(behind), more, landing(freshTTL, "1000", granted, "", "0:", "")...)
					held := h.State == entry.Lease || h.State == entry.Value && h.Till != 0
					switch {
					case h.Token != own || h.State == entry.Absent || h.State == entry.Value && was == "":
						require.Equal(c.t, []any{"F"}, reply, name)
						c.requireUnchanged(before, name)
					case !held:
						require.Equal(c.t, []any{"S", "41"}, reply, name)
						c.requireUnchanged(before, name)
					default:
						require.Equal(c.t, []any{"S", want}, reply, name)
						c.requireCount(func(at int64) entry.Header {
							n := entry.Header{
								State: entry.Value, Flags: entry.Count, Token: own, Soft: at + freshTTL.Milliseconds(),
								Born: at - age.Milliseconds(), Cost: took,
							}
							if h.Flags&entry.Expired != 0 {
								n.Flags, n.Soft = n.Flags|entry.Stale, at
							}
							return n
						}, want, name)
						c.requireTTL(freshTTL, c.t0, name)
						after := c.raw()
						require.Equal(c.t, []any{"S", want}, c.run(script.LandCount(behind), more, landing(freshTTL, "1000", granted, "", "0:", "")...), name+" sent twice")
						require.Equal(c.t, after, c.raw(), name+" sent twice")
					}
				})
			})
		}
	}
}

func TestLandCountStoresNothingThatIsFromBeforeOrAfterABatch(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		for name, tc := range map[string]struct {
			inFlight map[string]string
			inc, n   string
			trust    string
			want     []any
		}{
			"never taken from":        {nil, "", "0:", "", []any{"S", "1007"}},
			"as it was":               {map[string]string{"#inc": "x", "#tok": "t", "#n": "3", "#a": "3"}, "x", "3:t", "", []any{"S", "1007"}},
			"another id in flight":    {map[string]string{"#inc": "x", "#tok": "t", "#n": "3", "#a": "2", "other": "1"}, "x", "3:t", "", []any{"S", "1007"}},
			"itself in flight":        {map[string]string{"#inc": "x", "#tok": "t", "#n": "3", "#a": "2", "id": "1"}, "x", "3:t", "", []any{"C"}},
			"a batch came":            {map[string]string{"#inc": "x", "#tok": "t", "#n": "4", "#a": "4"}, "x", "3:t", "", []any{"C"}},
			"Redis forgot":            {map[string]string{"#inc": "y", "#tok": "t", "#n": "3", "#a": "3"}, "x", "3:t", "", []any{"C"}},
			"the bucket is gone":      {nil, "x", "3:t", "", []any{"C"}},
			"a batch came, who cares": {map[string]string{"#inc": "x", "#tok": "t", "#n": "4", "#a": "4"}, "x", "3:t", "1", []any{"S", "1027"}},
			"still in flight":         {map[string]string{"#inc": "x", "#tok": "t", "#n": "3", "#a": "2", "id": "20"}, "x", "3:t", "f", []any{"S", "1027"}},
			"in flight no more":       {map[string]string{"#inc": "x", "#tok": "t", "#n": "3", "#a": "3"}, "x", "3:t", "f", []any{"C"}},
			"another one in flight":   {map[string]string{"#inc": "x", "#tok": "t", "#n": "4", "#a": "3", "id": "20"}, "x", "3:t", "f", []any{"C"}},
			"in flight and forgotten": {map[string]string{"#inc": "y", "#tok": "t", "#n": "3", "#a": "2", "id": "20"}, "x", "3:t", "f", []any{"C"}},
			"another of the number":   {map[string]string{"#inc": "x", "#tok": "u", "#n": "3", "#a": "3"}, "x", "3:t", "", []any{"C"}},
			"nothing in flight":       {nil, "x", "3:t", "f", []any{"C"}},
		} {
			c := newCounting(newCell(t, rdb))
			c.seed(c.entry(entry.Header{State: entry.Lease, Token: own}, ""), seedTTL)
			before := c.snapshot()
			require.NoError(t, rdb.HSet(t.Context(), c.pending, "id", "7").Err())
			if tc.inFlight != nil {
				require.NoError(t, rdb.HSet(t.Context(), c.inFlight, tc.inFlight).Err())
			}
			require.Equal(t, tc.want, c.run(script.LandCount(true), c.bucket(), landing(keepTTL, "1000", "", tc.inc, tc.n, tc.trust)...), name)
			if tc.want[0] == "C" {
				c.requireUnchanged(before, name)
			}
		}
	})
}

// The database does not have data that a process could not read. It may have
// parked data.
func TestLandCount_AddsWhatWasNotReadAndNotWhatIsParked(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		for parked, want := range map[string][]any{"other": {"S", "1016"}, "id": {"C"}} {
			c := newCounting(newCell(t, rdb))
			c.seed(c.entry(entry.Header{State: entry.Lease, Token: own}, ""), seedTTL)
			require.NoError(t, rdb.HSet(t.Context(), c.pending, "id", "7").Err())
			require.NoError(t, rdb.HSet(t.Context(), c.unread, "id", "9", "#v", "x", "#t0", "1").Err())
			require.NoError(t, rdb.HSet(t.Context(), c.parked, parked, "token 1:5", "#p", "token ", "#ttoken", fmt.Sprint(len(parked), ":", parked)).Err())
			require.Equal(t, want, c.run(script.LandCount(true), c.bucket(), landing(keepTTL, "1000", "", "", "0:", "")...), parked)
		}
	})
}

func TestWhoWaitsForACountIsWoken(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounting(newCell(t, rdb))
		sub := c.hears()
		c.seed(c.entry(entry.Header{State: entry.Lease, Token: own, Flags: entry.Awaited}, ""), seedTTL)
		c.run(script.LandCount(false), nil, landing(keepTTL, "3", "", "", "", "")...)
		require.Equal(t, 1, c.wakes(sub))
	})
}
