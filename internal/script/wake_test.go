package script_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// wakes returns how often the key was published since the subscription began,
// or since the last call of wakes.
func (c *cell) wakes(sub *redis.PubSub) int {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	// Messages keep their order: no older message comes after this one.
	redistest.Publish(c.t, c.rdb, script.WakeChannel(c.key, c.key), "end")
	for n := 0; ; n++ {
		msg, err := sub.ReceiveMessage(ctx)
		require.NoError(c.t, err)
		if msg.Payload == "end" {
			return n
		}
		require.Equal(c.t, c.key, msg.Payload)
	}
}

// hears subscribes to the wake-ups of the key.
func (c *cell) hears() *redis.PubSub {
	c.t.Helper()
	sub := redistest.Subscribe(c.t, c.rdb, script.WakeChannel(c.key, c.key))
	c.t.Cleanup(func() { _ = sub.Close() })
	return sub
}

func TestTheScriptThatEndsALeaseWakesThoseWhoWaitAndNobodyElse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		script *script.Script
		args   func(key string) []any
		wakes  int         // if the lease is awaited
		state  entry.State // the only state for which it wakes; 0 any
	}{
		{"store", script.Store, func(key string) []any { return storing(key, own, keepTTL, freshTTL) }, 1, 0},
		{"store of nothing", script.Store, func(key string) []any { return storingNone(key, own, keepTTL, freshTTL) }, 1, 0},
		{"store of another", script.Store, func(key string) []any { return storing(key, other, keepTTL, freshTTL) }, 0, 0},
		{"renew", script.Renew, func(string) []any { return renewing(own, keepTTL, freshTTL) }, 1, entry.Value},
		{"renew of another", script.Renew, func(string) []any { return renewing(other, keepTTL, freshTTL) }, 0, 0},
		{"write", script.Write, func(key string) []any { return writing(key, other, keepTTL, freshTTL) }, 1, 0},
		{"release", script.Release, func(string) []any { return releasing(own) }, 1, 0},
		{"release and drop", script.Release, func(string) []any { return dropping(own) }, 1, 0},
		{"release with a pause", script.Release, func(string) []any { return pausing(own, time.Second, time.Hour) }, 1, 0},
		{"release of another", script.Release, func(string) []any { return releasing(other) }, 0, 0},
		{"extend", script.Extend, func(string) []any { return extending(own) }, 0, 0},
		{"expire", script.Expire, func(string) []any { return nil }, 0, 0},
		{"acquire", script.Acquire, func(string) []any { return acquiring(other, ask{hint: true, suspect: true}) }, 0, 0},
		{"acquire what is due", script.Acquire, func(string) []any { return acquiring(other, ask{hint: true, want: script.Due}) }, 0, 0},
		{"acquire what is of use", script.Acquire, func(string) []any { return acquiring(other, ask{hint: true, use: useTTL}) }, 0, 0},
		{"acquire now", script.Acquire, func(string) []any { return acquiring(other, ask{want: script.Now}) }, 1, 0},
		{"acquire now what is of use", script.Acquire, func(string) []any { return acquiring(other, ask{want: script.Now, use: useTTL}) }, 1, 0},
		{"acquire what is unfit", script.Acquire, func(string) []any { return acquiring(other, ask{want: script.Unfit, seen: own[:]}) }, 1, 0},
		{"acquire what is else unfit", script.Acquire, func(string) []any { return acquiring(other, ask{want: script.Unfit, seen: other[:]}) }, 0, 0},
	}
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for _, test := range tests {
			for _, state := range []entry.State{entry.Lease, entry.Value} {
				for flags := entry.Flags(0); flags <= entry.Expired|entry.Awaited|entry.Stale; flags++ {
					c := newCell(t, rdb)
					sub := c.hears()
					h, payload := entry.Header{State: state, Flags: flags, Token: own}, ""
					if state == entry.Value {
						h.Till, payload = c.now()+hour, old
					}
					c.seed(c.entry(h, payload), seedTTL)
					c.do(test.script, test.args(c.key)...)
					want := 0
					if flags&entry.Awaited != 0 && (test.state == 0 || test.state == state) {
						want = test.wakes
					}
					require.Equal(t, want, c.wakes(sub), "%s, %c with flags %d", test.name, state, flags)
					// Processes that were told are not told again.
					c.do(test.script, test.args(c.key)...)
					require.Zero(t, c.wakes(sub), "%s again, %c with flags %d", test.name, state, flags)
				}
			}
		}
		// A process that takes over a lapsed lease ends that lease.
		for use, kind := range map[time.Duration]string{0: "R", useTTL: "G"} {
			c := newCell(t, rdb)
			sub := c.hears()
			c.seed(c.entry(entry.Header{State: entry.Value, Flags: entry.Awaited, Token: own, Soft: 1, Till: 2}, old), seedTTL)
			require.Equal(t, kind, c.do(script.Acquire, acquiring(other, ask{use: use})...).([]any)[0])
			require.Equal(t, 1, c.wakes(sub))
		}
		for _, s := range []*script.Script{script.Store, script.Renew, script.Write} {
			for _, raw := range []string{"", "foreign", "\xC1X\x01L\x02"} {
				c := newCell(t, rdb)
				sub := c.hears()
				c.seed(raw, seedTTL)
				c.do(s, storing(c.key, own, keepTTL, freshTTL)...)
				require.Zero(t, c.wakes(sub), "%q", raw)
			}
		}
	})
}

// One of two processes waits for the other; the test follows both.
func TestAWaiterIsWokenByTheLeaseThatItAskedFor(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCell(t, rdb)
		sub := c.hears()
		kind := func(token entry.Token) any {
			return c.do(script.Acquire, acquiring(token, ask{hint: true})...).([]any)[0]
		}
		require.Equal(t, "G", kind(own))
		require.Equal(t, "W", kind(other))
		require.Equal(t, "W", kind(other))
		require.Zero(t, c.wakes(sub))
		require.Equal(t, int64(1), c.do(script.Store, storing(c.key, own, keepTTL, freshTTL)...))
		require.Equal(t, 1, c.wakes(sub))

		// The same is true while a value is refreshed that the waiter must not
		// serve.
		require.Equal(t, int64(1), c.do(script.Expire))
		require.Equal(t, "R", kind(own))
		require.Equal(t, "S", kind(other))
		require.Zero(t, c.wakes(sub))
		require.Equal(t, int64(1), c.do(script.Release, releasing(own)...))
		require.Equal(t, 1, c.wakes(sub))
		require.Equal(t, "R", kind(other))
		require.Equal(t, int64(1), c.do(script.Release, releasing(other)...))
		require.Zero(t, c.wakes(sub), "nobody waits any more")
	})
}

// If a server does not let scripts publish, the scripts still store.
func TestScriptsDoTheirWorkThoughTheyMayNotPublish(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client(nil)
	require.NoError(t, admin.Do(t.Context(), "acl", "setuser", "cache", "on", "nopass", "~*", "+@all", "-publish", "-spublish").Err())
	rdb := server.Client(func(o *redis.Options) { o.Username, o.Password = "cache", "any" })
	for _, s := range []*script.Script{script.Store, script.Write} {
		c := newCell(t, rdb)
		c.seed(c.entry(entry.Header{State: entry.Lease, Flags: entry.Awaited, Token: own}, ""), seedTTL)
		args := storing(c.key, own, keepTTL, freshTTL)
		if s == script.Write {
			args = writing(c.key, own, keepTTL, freshTTL)
		}
		require.Equal(t, int64(1), c.do(s, args...))
		require.Equal(t, entry.Value, c.header().State)
	}
	c := newCell(t, rdb)
	c.seed(c.entry(entry.Header{State: entry.Lease, Flags: entry.Awaited, Token: own}, ""), seedTTL)
	require.Equal(t, int64(1), c.do(script.Release, releasing(own)...))
	require.Equal(t, "none", c.snapshot())
}
