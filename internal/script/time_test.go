package script_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

func TestALeaseOnAValueNeverShortensItsLifeAndProlongsAShorterOne(t *testing.T) {
	t.Parallel()
	acquire, useful, due := acquiring(own, ask{}), acquiring(own, ask{use: useTTL}), acquiring(own, ask{want: script.Due})
	now := acquiring(own, ask{want: script.Now})
	fresh := entry.Header{State: entry.Value, Token: other, Soft: entry.Forever}
	held := entry.Header{State: entry.Value, Token: other, Till: entry.Forever}
	extend := []any{own[:], leaseTTL.Milliseconds()}
	free := entry.Header{State: entry.Value, Token: other}
	leased := entry.Header{State: entry.Value, Token: own, Till: 1}
	stub := entry.Header{State: entry.Lease, Token: own}
	each(t, func(t *testing.T, rdb *redis.Client) {
		for _, test := range []struct {
			name   string
			header entry.Header
			script *script.Script
			args   []any
		}{
			{"acquire", free, script.Acquire, acquire},
			{"acquire what is of no use", free, script.Acquire, useful},
			{"acquire what is due", fresh, script.Acquire, due},
			{"acquire now", held, script.Acquire, now},
			{"extend", leased, script.Extend, extend},
			{"extend a stub", stub, script.Extend, extend},
		} {
			for _, ttl := range []time.Duration{leaseTTL - time.Second, leaseTTL + time.Minute, 0} {
				c := newCell(t, rdb)
				payload := old
				if test.header.State == entry.Lease {
					payload = ""
				}
				c.seed(c.entry(test.header, payload), ttl)
				c.do(test.script, test.args...)
				require.Equal(t, own, c.header().Token, test.name)
				if c.header().State == entry.Lease && test.header.State == entry.Value {
					c.requireTTL(leaseTTL, c.t0, "%s: a lease that stands on nothing ends by itself", test.name)
					continue
				}
				if ttl == leaseTTL-time.Second {
					c.requireTTL(leaseTTL, c.t0, "%s: a life shorter than the lease is prolonged to it", test.name)
					continue
				}
				c.requireTTL(ttl, c.seeded, "%s: a life of %v stays", test.name, ttl)
			}
		}
	})
}

func TestAValueIsFreshAndALeaseHoldsUntilTheMillisecondBefore(t *testing.T) {
	t.Parallel()
	server := redistest.StartEmbedded(t)
	rdb := server.Client(nil)
	base := time.UnixMilli(stoppedAt)
	at := func(d time.Duration) { server.SetTime(base.Add(d)) }
	at(0)
	c := newCell(t, rdb)
	kind := func(token entry.Token) any {
		reply := c.do(script.Acquire, acquiring(token, ask{})...)
		return reply.([]any)[0]
	}
	c.do(script.Write, writing(c.key, other, keepTTL, freshTTL)...)
	at(freshTTL - ms)
	require.Equal(t, "V", kind(own))
	at(freshTTL)
	require.Equal(t, "R", kind(own))
	at(freshTTL + leaseTTL - ms)
	require.Equal(t, "S", kind(other))
	require.Equal(t, int64(1), c.do(script.Extend, extending(own)...))
	at(freshTTL + 2*leaseTTL - 2*ms)
	require.Equal(t, "S", kind(other))
	at(freshTTL + 2*leaseTTL - ms)
	require.Equal(t, "R", kind(other), "the lease has lapsed, and is for whoever asks")
	require.Equal(t, int64(0), c.do(script.Store, storing(c.key, own, keepTTL, freshTTL)...))

	// A value that is fresh for no time at all is stale at once.
	args := storing(c.key, other, keepTTL, freshTTL)
	args[2] = 0
	require.Equal(t, int64(1), c.do(script.Store, args...))
	require.Equal(t, "R", kind(own))

	// A lease that has lapsed is still good if no process took it.
	at(freshTTL + keepTTL)
	require.Equal(t, int64(1), c.do(script.Extend, extending(own)...))
	at(freshTTL + keepTTL + leaseTTL - ms)
	require.Equal(t, int64(1), c.do(script.Store, storing(c.key, own, keepTTL, freshTTL)...))
	require.Equal(t, "V", kind(other))
}

func TestALeaseWithoutAValueIsGoneWhenItRunsOut(t *testing.T) {
	t.Parallel()
	server := redistest.StartEmbedded(t)
	rdb := server.Client(nil)
	server.SetTime(time.UnixMilli(stoppedAt))
	c := newCell(t, rdb)
	require.Equal(t, []any{"G"}, c.do(script.Acquire, acquiring(own, ask{})...))
	server.SetTime(time.UnixMilli(stoppedAt).Add(leaseTTL))
	require.Equal(t, int64(0), c.do(script.Extend, extending(own)...))
	require.Equal(t, int64(0), c.do(script.Release, releasing(own)...))
	require.Equal(t, int64(0), c.do(script.Expire))
	require.Equal(t, int64(0), c.do(script.Store, storing(c.key, own, keepTTL, freshTTL)...))
	require.Equal(t, []any{"G"}, c.do(script.Acquire, acquiring(other, ask{})...))
}

func TestTimesOfEveryLengthSurviveTheArithmeticOfLua(t *testing.T) {
	t.Parallel()
	server := redistest.StartEmbedded(t)
	c := newCell(t, server.Client(nil))
	for _, now := range []int64{1, 255, 256, 1<<32 - 1, 1 << 32, 1<<40 - 1, 1 << 40, stoppedAt, 1<<42 + 999, 1<<43 + 12345} {
		server.SetTime(time.UnixMilli(now))
		for _, fresh := range []int64{1, 255, 256, hour, 10 * 365 * 24 * hour, 1<<47 - 1, entry.Forever - 1 - now} {
			args := writing(c.key, own, 0, 0)
			args[2] = fresh
			c.do(script.Write, args...)
			require.Equal(t, now, c.header().Born)
			require.Equal(t, now+fresh, c.header().Soft)
			require.Equal(t, "V", c.do(script.Acquire, acquiring(other, ask{})...).([]any)[0], "%d + %d", now, fresh)
		}
	}
}

// A script and Parse must agree on which bytes are an entry. If only one of
// them sees an entry, processes wait for it without end, or overwrite it during
// a load.
func TestScriptsTakeForAHeaderWhatParseDoes(t *testing.T) {
	t.Parallel()
	var cases []string
	add := func(b []byte) { cases = append(cases, string(b)) }
	value := entry.Header{State: entry.Value, Flags: entry.Awaited | entry.Stale, Fails: 5, Soft: 1, Token: own, Till: 2, Born: 3, Cost: 4 * time.Millisecond}
	lease := entry.Header{State: entry.Lease, Token: other, Born: 1<<48 - 1}
	for x := range 256 {
		for i := range 5 {
			add(mended(value.Append(nil), i, byte(x)))
		}
		b := value.Append(nil)
		b[5] = byte(x)
		add(b)
	}
	for _, h := range []entry.Header{value, lease} {
		for i := range entry.Size {
			b := h.Append(nil)
			b[i] ^= 0x81
			add(b)
			add(h.Append(nil)[:i])
		}
		add(append(h.Append(nil), "payload"...))
	}
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCell(t, rdb)
		calls := make([]*script.Call, len(cases))
		_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
			for i, raw := range cases {
				calls[i] = &script.Call{Script: script.Expire, Key: fmt.Sprint(c.key, ":", i)}
				p.Set(t.Context(), calls[i].Key, raw, time.Minute)
			}
			return nil
		})
		require.NoError(t, err)
		for some := range slices.Chunk(calls, 50) { // a slow server still answers in time
			require.NoError(t, script.Pipeline(t.Context(), rdb, some))
		}
		taken := 0
		for i, call := range calls {
			h, _, _ := entry.Parse(call.Key, []byte(cases[i]))
			want := int64(0)
			if h != (entry.Header{}) {
				want = 1
				taken++
			}
			require.Equal(t, want, call.Reply, "%q", cases[i])
		}
		require.Positive(t, taken)
	})
}
