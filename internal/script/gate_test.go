package script_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
)

var gateScripts = map[string]*script.Script{
	"pass": script.PassGate, "reopen": script.ReopenGate, "reset": script.ResetGate,
}

const gateClosed = int64(60_000) // ms

func gateOf(token entry.Token) string { return "\xc1G\x01" + string(token[:]) }

// A gateRow says how a script changes the content of the key.
type gateRow struct {
	before string        // the content of the key; "" if it is absent
	ttl    time.Duration // its TTL; 0: no TTL
	reply  any
	after  string
	keeps  bool // the TTL continues, and does not begin anew
}

func gateTable(t *testing.T, s *script.Script, rows map[string]gateRow) {
	t.Helper()
	each(t, func(t *testing.T, rdb *redis.Client) {
		for name, row := range rows {
			c := newCell(t, rdb)
			if row.before != "" {
				c.seed(row.before, row.ttl)
			}
			reply := c.do(s, own[:], gateClosed)
			if parts, ok := reply.([]any); ok && parts[0] == "C" && c.t0 != stoppedAt {
				left := row.reply.([]any)[1].(int64)
				require.LessOrEqual(t, parts[1], left, name)
				require.GreaterOrEqual(t, parts[1], left-max(c.t1-c.seeded, time.Since(c.seededAt).Milliseconds())-1, name)
			} else {
				require.Equal(t, row.reply, reply, name)
			}
			require.Equal(t, row.after, c.raw(), name)
			switch {
			case row.after == "":
			case row.keeps:
				c.requireTTL(row.ttl, c.seeded, name)
			default:
				c.requireTTL(time.Duration(gateClosed)*time.Millisecond, c.t0, name)
			}
		}
	})
}

func TestPassGate(t *testing.T) {
	t.Parallel()
	const some, hour = 40 * time.Second, time.Hour
	gateTable(t, script.PassGate, map[string]gateRow{
		"open":                      {"", 0, []any{"P", int64(0)}, gateOf(own), false},
		"closed by another":         {gateOf(other), some, []any{"C", int64(40_000)}, gateOf(other), true},
		"closed by a copy":          {gateOf(own), some, []any{"P", int64(0)}, gateOf(own), true},
		"closed for good":           {gateOf(other), 0, []any{"C", gateClosed}, gateOf(other), false},
		"closed for long":           {gateOf(other), hour, []any{"C", gateClosed}, gateOf(other), false},
		"closed for long by a copy": {gateOf(own), hour, []any{"P", int64(0)}, gateOf(own), false},
		"a string":                  {"hello", some, []any{"F", int64(0)}, "hello", true},
		"a string for good":         {"hello", 0, []any{"F", int64(0)}, "hello", true},
		"cut":                       {gateOf(own)[:10], some, []any{"F", int64(0)}, gateOf(own)[:10], true},
		"longer":                    {gateOf(own) + "x", some, []any{"F", int64(0)}, gateOf(own) + "x", true},
	})
}

func TestReopenGate(t *testing.T) {
	t.Parallel()
	const some = 40 * time.Second
	gateTable(t, script.ReopenGate, map[string]gateRow{
		"open":               {"", 0, int64(0), "", true},
		"closed by the call": {gateOf(own), some, int64(1), "", true},
		"closed by another":  {gateOf(other), some, int64(0), gateOf(other), true},
		"a string":           {"hello", some, int64(0), "hello", true},
	})
}

func TestResetGate(t *testing.T) {
	t.Parallel()
	const some = 40 * time.Second
	gateTable(t, script.ResetGate, map[string]gateRow{
		"open":              {"", 0, int64(0), "", true},
		"closed by another": {gateOf(other), some, int64(1), "", true},
		"closed for good":   {gateOf(other), 0, int64(1), "", true},
		"a string":          {"hello", some, int64(-1), "hello", true},
	})
}
