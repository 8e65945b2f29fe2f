package sizes

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// What one command of ours may do at most, at the largest sizes that a Spec admits.
// Redis 7.0 took at most 5 ms for each on the machine where the bounds were set. The
// bounds are counts, since a time would depend on the machine.
const (
	mostElements = 20_100      // taken, passed to Redis from a script, or returned
	mostPassed   = 41_000      // passed over by LREM and LTRIM, which take nanoseconds for each
	mostBytes    = 2<<20 + 100 // a value as large as a server takes, in and out of a script
)

// A load is a call at the largest size that a Spec admits. The work of prepare does
// not count.
type load struct {
	name    string
	prepare func(t *testing.T, ctx context.Context)
	do      func(t *testing.T, ctx context.Context)
}

// loads returns all of them, by clients of one server.
func loads(t *testing.T, rdb *redis.Client) []load {
	return slices.Concat(lists(t, rdb), sets(t, rdb), rankings(t, rdb), trendings(t, rdb), feeds(t, rdb),
		packed(t, rdb), entries(t, rdb), counts(t, rdb), gates(t, rdb), behind(t, rdb))
}

// No command of cachex keeps the server from others. Each script is in loads, or in
// elsewhere.
func TestServer_IsNotKeptFromOthers(t *testing.T) {
	server := redistest.Start(t)
	plain, rdb := server.Client(nil), server.Client(nil)
	hook := newWorkHook(t, rdb)
	for _, l := range loads(t, rdb) {
		t.Run(l.name, func(t *testing.T) {
			if l.prepare != nil {
				l.prepare(t, t.Context())
			}
			hook.take(t, plain)
			l.do(t, t.Context())
			for _, w := range hook.take(t, plain) {
				if w.elements > mostElements || w.passed > mostPassed || w.bytes > mostBytes {
					t.Error(w)
				}
			}
		})
	}
	for _, s := range script.All() {
		assert.True(t, hook.has(s) || elsewhere[s.Name()] != "", "script %s is not in the walk", s.Name())
	}
	for name := range elsewhere {
		require.True(t, slices.ContainsFunc(script.All(), func(s *script.Script) bool { return s.Name() == name }), "no script %s", name)
	}
}

// TestServer_TimesOfEachLoad logs each command that takes the server more than 5 ms, by
// its own clock. It asserts nothing: the figure belongs to the machine.
func TestServer_TimesOfEachLoad(t *testing.T) {
	if os.Getenv("CACHEX_SIZES") == "" {
		t.Skip("CACHEX_SIZES=1 measures it")
	}
	server := redistest.Start(t, "--slowlog-log-slower-than", "5000", "--slowlog-max-len", "10000")
	rdb := server.Client(nil)
	for _, l := range loads(t, rdb) {
		t.Run(l.name, func(t *testing.T) {
			if l.prepare != nil {
				l.prepare(t, t.Context())
			}
			require.NoError(t, rdb.SlowLogReset(t.Context()).Err())
			l.do(t, t.Context())
			slow, err := rdb.SlowLogGet(t.Context(), 10000).Result()
			require.NoError(t, err)
			for _, s := range slow {
				t.Logf("%v: %.80q", s.Duration, fmt.Sprint(s.Args))
			}
		})
	}
}

const (
	oneHeader = "reads and writes one header, or one field, whatever the entry has"
	someIDs   = "moves at most 100 ids: TestTakeBatch_CostsTheSameWhateverIsPending"
)

// elsewhere has the scripts that loads does not send, and why they need no bound.
var elsewhere = map[string]string{
	"renew": oneHeader, "extend": oneHeader, "wake": oneHeader, "expire": oneHeader, "release": oneHeader,
	"extend list": oneHeader, "extend ranking": oneHeader, "extend set": oneHeader,
	"release list": oneHeader, "release ranking": oneHeader, "release set": oneHeader,
	"take turn": oneHeader, "extend turn": oneHeader, "end turn": oneHeader, "return turn": oneHeader,
	"hold batch": oneHeader, "renumber batch": oneHeader, "retry refused": oneHeader, "survey batch": oneHeader,
	"subtract batch": someIDs,
	"list refused":   "returns a page: TestListRefused_ReturnsPages",
}
