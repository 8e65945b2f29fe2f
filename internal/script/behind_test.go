package script_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/script"
)

var behindScripts = map[string]*script.Script{
	"add": script.PendAdd, "put": script.PendPut, "take": script.TakeBatch, "hold": script.HoldBatch, "ack": script.AckBatch,
	"read": script.ReadBatch, "subtract": script.SubtractBatch, "renumber": script.RenumberBatch, "drop": script.DropBatch, "retry": script.RetryRefused, "list": script.ListRefused,
	"look": script.LookBatch, "survey": script.SurveyBatch, "park": script.ParkBatch, "unpark": script.UnparkBatch,
	"settle": script.SettleBatch, "list unread": script.ListUnread, "rescue": script.RescueUnread,
}

// The scripts of write-behind touch the keys of one bucket, by commands that a
// proxy and the embedded server know in scripts. They never convert a delta or
// the number of a batch to a number of Lua.
func TestScriptsOfWriteBehindTouchOneBucketAndCountInRedis(t *testing.T) {
	t.Parallel()
	commands := []string{
		"TIME", "INFO", "HGET", "HMGET", "HSET", "HSETNX", "HDEL", "HLEN", "HKEYS", "HGETALL", "HEXISTS", "HINCRBY", "HSCAN",
		"DEL", "UNLINK", "EXISTS", "RENAME",
	}
	anyCall := regexp.MustCompile(`redis\.p?call\('([A-Z]+)'(?:, ([A-Za-z]+)(\[[1-6]\])?)?`)
	keys := []string{"P", "I", "D", "U", "L", "KEYS", "p", "i", "l", "key"}
	allowed := map[string][]string{
		"string": {"byte", "match", "gmatch", "sub"}, "math": {"floor", "max", "min"}, "redis": {"call", "pcall"}, "table": {"concat"},
	}
	quoted := regexp.MustCompile(`'[^']*'`)
	// tonumber is for moments, for sizes, and for counts of ids and failures.
	fine := []string{"m[6] or '0'", "ARGV[4]", "ARGV[5]", "ARGV[7]", "ARGV[8]", "got", "size", "string.match(m[8] or '0', '%d+'", "m[6] or '0'", "m[4] or at", "m[5] or '0'", "m[12] or '0'"}
	for name, s := range behindScripts {
		src := s.Source()
		calls := anyCall.FindAllStringSubmatch(src, -1)
		require.NotEmpty(t, calls)
		require.Len(t, calls, strings.Count(src, "call("), "%s calls something that is not a literal", name)
		for _, c := range calls {
			require.Contains(t, commands, c[1], name)
			if c[1] != "TIME" && c[1] != "INFO" {
				require.Contains(t, keys, c[2], "%s calls %s on another key", name, c[1])
			}
		}
		for _, use := range library.FindAllStringSubmatch(quoted.ReplaceAllString(src, "''"), -1) {
			require.Contains(t, allowed[use[1]], use[2], "%s uses %s", name, use[0])
		}
		for _, use := range regexp.MustCompile(`tonumber\(([^)]*)\)`).FindAllStringSubmatch(src, -1) {
			require.True(t, slices.Contains(fine, use[1]), "%s: %s", name, use[0])
		}
		require.NotContains(t, src, "\t", name)
		require.Less(t, len(src), 6000, name)
	}
}

// A full Redis lets a script go on writing if its first write frees memory.
func TestScriptsThatMakeRoomBeginWithAWriteThatAFullRedisAllows(t *testing.T) {
	t.Parallel()
	writes := regexp.MustCompile(`redis\.call\('(H?SET|HSETNX|HINCRBY|HDEL|DEL|UNLINK)'`)
	for _, name := range []string{"take", "hold", "ack", "subtract", "renumber", "drop", "park", "unpark", "settle", "rescue"} {
		src := behindScripts[name].Source()
		_, body, ok := strings.Cut(src, "local function aside(")
		require.True(t, ok)
		// Functions write when they are called. The HDEL of nothing comes
		// before that.
		at := strings.Index(body, "redis.call('HDEL', P, '#')")
		require.Positive(t, at, name)
		for _, w := range writes.FindAllStringIndex(body[:at], -1) {
			require.Less(t, w[0], strings.LastIndex(body[:at], "\nend\n"), "%s writes first", name)
		}
	}
}
