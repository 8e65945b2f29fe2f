package script_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
)

// A counting is a cell with a count, and the keys beside it.
type counting struct {
	*cell
	pending, inFlight, op string

	unread, parked string
}

func newCounting(c *cell) *counting {
	return &counting{c, c.key + ":p", c.key + ":i", c.key + ":op", c.key + ":u", c.key + ":l"}
}

// run runs a script, and returns its reply.
func (c *counting) run(s *script.Script, more []string, args ...any) []any {
	c.t.Helper()
	c.ranAt = time.Now()
	c.t0 = c.now()
	call := &script.Call{Script: s, Key: c.key, More: more, Args: args}
	require.NoError(c.t, call.Run(c.t.Context(), c.rdb))
	c.t1 = c.now()
	reply, _ := call.Reply.([]any)
	return reply
}

// value runs a script that returns a number, and returns that number.
func (c *counting) value(s *script.Script, more []string, args ...any) int64 {
	c.t.Helper()
	call := &script.Call{Script: s, Key: c.key, More: more, Args: args}
	require.NoError(c.t, call.Run(c.t.Context(), c.rdb))
	n, _ := call.Reply.(int64)
	return n
}

// add runs one of the four AddCount scripts.
func (c *counting) add(behind, once bool, delta string, keep time.Duration, missing string) []any {
	c.t.Helper()
	return c.run(script.AddCount(behind, once), c.more(behind, once), adding(delta, keep, missing)...)
}

func (c *counting) more(behind, once bool) (keys []string) {
	if behind {
		keys = append(keys, c.pending)
	}
	if once {
		keys = append(keys, c.op)
	}
	return keys
}

// adding returns the arguments of AddCount.
func adding(delta string, keep time.Duration, missing string) []any {
	return []any{delta, millis(keep), missing, own[:], "id", onceTTL.Milliseconds()}
}

// bucket returns the keys of LandCount beside the key of the count.
func (c *counting) bucket() []string { return []string{c.pending, c.inFlight, c.unread, c.parked} }

// landing returns the arguments of LandCount.
func landing(keep time.Duration, n, was, inc, number, trust string) []any {
	flying := "0"
	if trust != "" {
		flying = "20"
	}
	return []any{own[:], millis(keep), age.Milliseconds(), entry.AppendCost(nil, took), n, was, "id", inc, number, trust, flying}
}

const onceTTL = 33 * time.Minute

// requireCount fails unless the key holds the count, and the exact bytes of the
// header that want returns for a moment of the last script.
func (c *counting) requireCount(want func(at int64) entry.Header, count string, msg string) {
	c.t.Helper()
	got := c.raw()
	h, payload, ok := entry.Parse(c.key, []byte(got))
	require.True(c.t, ok, "%s: %q is no entry", msg, got)
	require.Equal(c.t, count, string(payload), msg)
	for at := c.t0; at <= c.t1; at++ {
		if h == want(at) {
			return
		}
	}
	require.Equal(c.t, want(c.t0), h, msg)
}

// counts returns the states of a key that is a count, or was one. These are the
// states of the lease protocol. Each state with a value also comes with the
// count 41 in place of that value. The count is there twice: as the Cache
// stores it, and as a script leaves it after an addition.
func counts() []state {
	all := slices.Clone(states)
	for _, st := range states {
		for _, flag := range []entry.Flags{0, entry.Count} {
			all = append(all, state{fmt.Sprint(st.name, " 41 ", flag), func(c *cell) {
				st.setUp(c)
				h, ok := header(c)
				if !ok || h.State != entry.Value {
					return
				}
				h.Flags |= flag
				h.Sum = 99
				if flag == 0 {
					h.Sum = entry.Sum(c.key, []byte("41"))
				}
				c.seed(string(h.Append(nil))+"41", c.ttl)
			}})
		}
	}
	return all
}

// header returns the header that a script sees in the key.
func header(c *cell) (entry.Header, bool) {
	if c.rdb.Type(c.t.Context(), c.key).Val() != "string" {
		return entry.Header{}, false
	}
	h, _, _ := entry.Parse(c.key, []byte(c.raw()))
	return h, h != entry.Header{}
}

// eachCount runs f in every state. before is the content of the key, and h its
// header. was is the count, "" if there is none to which a script may add.
// leased is whether own has the lease.
func eachCount(t *testing.T, f func(c *counting, name, before string, h entry.Header, was string)) {
	t.Helper()
	each(t, func(t *testing.T, rdb *redis.Client) {
		for _, st := range counts() {
			c := newCounting(newCell(t, rdb))
			st.setUp(c.cell)
			before := c.snapshot()
			h, ok := header(c.cell)
			was := ""
			if ok && h.State == entry.Value && strings.HasSuffix(before, "41") && len(before) == entry.Size+2 {
				was = "41"
			}
			f(c, st.name, before, h, was)
		}
	})
}

func usable(c *counting, h entry.Header) bool {
	return h.Soft > c.now() && h.Flags&entry.Stale == 0
}
