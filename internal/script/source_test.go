package script_test

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/script"
)

var (
	call    = regexp.MustCompile(`redis\.(p?call)\('([A-Z]+)'(, ?key)?`)
	setsKey = regexp.MustCompile(`local key ?= ?KEYS\[1\]\n`)
	library = regexp.MustCompile(`\b([a-z]+)\.([a-z]+)\b`)
)

// allScripts returns the scripts of the lease protocol, of the turns, of the
// gates and of the collections.
func allScripts() map[string]*script.Script {
	all := maps.Clone(scripts)
	maps.Copy(all, turnScripts)
	maps.Copy(all, gateScripts)
	maps.Copy(all, collectionScripts())
	return all
}

// Every node of a Cluster and every proxy runs a script whose only key is its
// KEYS[1]. The script must not call a command that they refuse in scripts.
func TestScriptsTouchOneKeyByCommandsThatRunEverywhere(t *testing.T) {
	t.Parallel()
	keyed := []string{
		"GETRANGE", "SETRANGE", "GET", "SET", "UNLINK", "PTTL", "PEXPIRE", "PERSIST",
		"LINDEX", "LPUSH", "LRANGE", "LREM", "LSET", "LTRIM", "RPUSH",
		"ZADD", "ZCARD", "ZCOUNT", "ZINCRBY", "ZRANGE", "ZREM", "ZREMRANGEBYRANK", "ZREVRANGE", "ZREVRANK", "ZSCORE",
		"EXISTS", "SADD", "SCARD", "SISMEMBER", "SREM",
	}
	keyless := []string{"TIME", "PUBLISH", "SPUBLISH"}
	for name, s := range allScripts() {
		src := s.Source()
		require.Equal(t, 1, strings.Count(src, "KEYS"), name)
		require.Regexp(t, setsKey, src, name)
		require.NotRegexp(t, `\bkey\s*=[^=]`, setsKey.ReplaceAllString(src, ""), name)

		calls := call.FindAllStringSubmatch(src, -1)
		require.NotEmpty(t, calls)
		require.Len(t, calls, strings.Count(src, "call("), "%s calls something that is not a literal", name)
		for _, c := range calls {
			if slices.Contains(keyless, c[2]) {
				continue
			}
			require.Contains(t, keyed, c[2], "%s calls a command that is not on the list", name)
			require.NotEmpty(t, c[3], "%s calls %s on another key than its own", name, c[2])
		}
	}
}

// An embedded server has no struct, bit, cjson or cmsgpack. Comparisons and
// formats of Lua that follow the locale would differ from server to server.
func TestScriptsUseLittleOfLua(t *testing.T) {
	t.Parallel()
	allowed := map[string][]string{
		"string": {"rep", "byte", "char", "sub", "find"}, "math": {"floor", "max", "min"}, "redis": {"call", "pcall"},
		"first": {"err"}, // a field of a reply
	}
	quoted := regexp.MustCompile(`'[^']*'`)
	all := allScripts()
	maps.Copy(all, trendingScripts)
	for name, s := range all {
		for _, use := range library.FindAllStringSubmatch(quoted.ReplaceAllString(s.Source(), "''"), -1) {
			require.Contains(t, allowed[use[1]], use[2], "%s uses %s", name, use[0])
		}
		require.NotContains(t, s.Source(), "\t", name)
		require.Less(t, len(s.Source()), 4096, "%s: the source goes over the wire whenever a server has lost it", name)
	}
}

// The scripts of buckets touch keys beside their KEYS[1], and never KEYS[1]
// itself.
func TestScriptsOfBucketsTouchBucketsAlone(t *testing.T) {
	t.Parallel()
	for name, s := range trendingScripts {
		src := s.Source()
		require.Equal(t, 1, strings.Count(src, "KEYS"), name)
		require.Contains(t, src, "local function bucket(n) return KEYS[1] .. ':' .. n end\n", name)
		for _, of := range regexp.MustCompile(`\bkey\b[^,)\n]* = [^\n]*|for _, key in [^\n]*`).FindAllString(src, -1) {
			require.Regexp(t, `= bucket\(current\)|in ipairs\(window\(\)\) do$`, of, name)
		}
	}
}

func TestScriptsDiffer(t *testing.T) {
	t.Parallel()
	sources := map[string]string{}
	for name, s := range allScripts() {
		require.Empty(t, sources[s.Source()], name)
		sources[s.Source()] = name
	}
	require.NotEqual(t, script.New("a", "return 1").Source(), script.New("a", "return 2").Source())
}
