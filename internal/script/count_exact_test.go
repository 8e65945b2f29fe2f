package script_test

import (
	"math"
	"math/big"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
)

func TestWhatLeavesInt64ChangesNothing(t *testing.T) {
	t.Parallel()
	most := strconv.FormatInt(math.MaxInt64, 10)
	least := strconv.FormatInt(math.MinInt64, 10)
	each(t, func(t *testing.T, rdb *redis.Client) {
		count := func(n string) *counting {
			c := newCounting(newCell(t, rdb))
			c.seed(c.entry(entry.Header{State: entry.Value, Flags: entry.Count, Token: other, Soft: entry.Forever}, n), seedTTL)
			return c
		}
		none := func(c *counting, before string) {
			t.Helper()
			c.requireUnchanged(before, "")
			require.Zero(t, rdb.Exists(t.Context(), c.pending, c.op).Val())
		}
		for i, behind := range []bool{false, true, false, true} {
			c := count(most)
			before := c.snapshot()
			require.Equal(t, []any{"O"}, c.add(behind, i > 1, "1", keepTTL, "0"))
			none(c, before)
		}
		c := count("0")
		before := c.snapshot()
		require.NoError(t, rdb.HSet(t.Context(), c.pending, "id", most).Err())
		for _, once := range []bool{false, true} {
			if !strings.HasSuffix(t.Name(), "redis") {
				break // an embedded server lets HINCRBY overflow
			}
			call := &script.Call{Script: script.AddCount(true, once), Key: c.key, More: c.more(true, once), Args: adding("1", keepTTL, "0")}
			require.ErrorContains(t, call.Run(t.Context(), rdb), "overflow", "what is pending")
			c.requireUnchanged(before, "")
			require.Equal(t, map[string]string{"id": most}, rdb.HGetAll(t.Context(), c.pending).Val())
			require.Zero(t, rdb.Exists(t.Context(), c.op).Val())

			require.NoError(t, rdb.HSet(t.Context(), c.pending, "id", "="+most).Err())
			require.ErrorContains(t, call.Run(t.Context(), rdb), "overflow", "the total that is pending")
			require.Equal(t, map[string]string{"id": "=" + most}, rdb.HGetAll(t.Context(), c.pending).Val())
			require.NoError(t, rdb.HSet(t.Context(), c.pending, "id", most).Err())
		}

		c = newCounting(newCell(t, rdb))
		c.seed(c.entry(entry.Header{State: entry.Lease, Token: own}, ""), seedTTL)
		before = c.snapshot()
		require.NoError(t, rdb.HSet(t.Context(), c.pending, "id", "-1").Err())
		more := c.bucket()
		require.Equal(t, []any{"O"}, c.run(script.LandCount(true), more, landing(keepTTL, least, "", "", "0:", "")...))
		c.requireUnchanged(before, "")
	})
}

// A caller that asks again whether an operation was done hears that it was,
// although it could not be done a second time.
func TestAnOperationThatWasDoneIsFoundAtTheEdgeOfInt64(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		for _, behind := range []bool{false, true} {
			c := newCounting(newCell(t, rdb))
			c.seed(c.entry(entry.Header{State: entry.Value, Flags: entry.Count, Token: other, Soft: entry.Forever}, "9223372036854775800"), seedTTL)
			require.Equal(t, []any{"A", "9223372036854775807"}, c.add(behind, true, "7", keepTTL, "0"))
			require.Equal(t, []any{"D", "9223372036854775807"}, c.add(behind, true, "7", keepTTL, "0"))
		}
	})
}

// Sums are exact: the test compares the scripts with package big.
func TestCountsAreExact(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		rounds := 3000
		if strings.HasSuffix(t.Name(), "embedded") || strings.HasSuffix(t.Name(), "stopped") {
			rounds = 150 // this server is slow at scripts
		}
		seed := rand.Uint64()
		t.Log("seed", seed)
		r := rand.New(rand.NewPCG(seed, 1))
		edges := []int64{0, 1, -1, 1e10, 1e10 - 1, -1e10, 1e10 + 1, 1 << 53, math.MaxInt64, math.MinInt64, 922337203 * 1e10, -922337203 * 1e10}
		number := func() int64 {
			n := int64(r.Uint64()) >> r.IntN(64)
			if r.IntN(3) == 0 {
				n = edges[r.IntN(len(edges))] + int64(r.IntN(5)-2)
			}
			return n
		}
		c := newCounting(newCell(t, rdb))
		more := c.bucket()
		in := func(n *big.Int) []any {
			if n.IsInt64() {
				return []any{n.String()}
			}
			return nil
		}
		for range rounds {
			x, y, z := number(), number(), number()
			a, b, d := strconv.FormatInt(x, 10), strconv.FormatInt(y, 10), strconv.FormatInt(z, 10)
			bx, by, bz := big.NewInt(x), big.NewInt(y), big.NewInt(z)
			expect := func(kind string, want []any, got []any) {
				t.Helper()
				if want == nil {
					kind = "O"
				}
				require.Equal(t, append([]any{kind}, want...), got, "%d %d %d", x, y, z)
			}
			h := entry.Header{State: entry.Value, Flags: entry.Count, Token: own, Soft: entry.Forever, Till: c.now() + hour}
			c.seed(c.entry(h, a), 0)
			expect("A", in(new(big.Int).Add(bx, by)), c.add(false, false, b, keepTTL, "0"))

			c.seed(c.entry(h, a), 0)
			require.NoError(t, rdb.HSet(t.Context(), c.pending, "id", "="+a).Err())
			if sum := in(new(big.Int).Add(bx, by)); sum != nil && y != 0 {
				expect("A", sum, c.add(true, false, b, keepTTL, "0"))
				require.Equal(t, "="+sum[0].(string), rdb.HGet(t.Context(), c.pending, "id").Val())
			}

			c.seed(c.entry(h, a), 0)
			landed := new(big.Int).Sub(new(big.Int).Add(bz, bx), by)
			expect("S", in(landed), c.run(script.LandCount(false), nil, landing(keepTTL, d, b, "", "", "")...))

			c.seed(c.entry(h, a), 0)
			require.NoError(t, rdb.HSet(t.Context(), c.pending, "id", b).Err())
			expect("S", in(new(big.Int).Add(bz, by)), c.run(script.LandCount(true), more, landing(keepTTL, d, "", "", "0:", "")...))
		}
	})
}

// The scripts of counts use only features of all servers and proxies. They
// never convert a count as a whole to a number of Lua.
func TestScriptsOfCountsUseLittle(t *testing.T) {
	t.Parallel()
	all := map[string]*script.Script{
		"add": script.AddCount(false, false), "add behind": script.AddCount(true, false), "add once": script.AddCount(false, true),
		"add behind once": script.AddCount(true, true), "land": script.LandCount(false), "land behind": script.LandCount(true),
		"set": script.SetCount,
	}
	commands := []string{"TIME", "GETRANGE", "SET", "GET", "PTTL", "PUBLISH", "SPUBLISH", "SETRANGE", "HINCRBY", "HSETNX", "HSET", "HGET", "HMGET", "HEXISTS"}
	allowed := map[string][]string{
		"string": {"rep", "byte", "char", "sub", "find", "match", "gmatch", "format"}, "math": {"floor", "max"}, "redis": {"call", "pcall"},
	}
	quoted := regexp.MustCompile(`'[^']*'`)
	seen := map[string]string{}
	for name, s := range all {
		src := s.Source()
		require.Empty(t, seen[src], name)
		seen[src] = name
		calls := call.FindAllStringSubmatch(src, -1)
		require.Len(t, calls, strings.Count(src, "call("), name)
		for _, c := range calls {
			require.Contains(t, commands, c[2], name)
		}
		for _, use := range library.FindAllStringSubmatch(quoted.ReplaceAllString(src, "''"), -1) {
			require.Contains(t, allowed[use[1]], use[2], "%s uses %s", name, use[0])
		}
		require.NotRegexp(t, `tonumber\((s|string\.sub\(s[^()]*\))\)`, src, "%s: a number of Lua, of a base that is up to the server", name)
		require.NotContains(t, src, "\t", name)
		require.Less(t, len(src), 6400, name)
	}
}
