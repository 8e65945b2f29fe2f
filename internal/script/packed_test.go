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
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// A packet is a hash of packed entries that are of no use once they are stale.
type packet struct {
	*testing.T
	rdb  *redis.Client
	hash string
}

func (p *packet) run(s *script.Script, field string, args ...any) any {
	p.Helper()
	reply, err := s.Packed().Run(p.Context(), p.rdb, p.hash, append(slices.Clone(args), 0, field)...)
	require.NoError(p, err)
	return reply
}

// write writes a value that lives for life.
func (p *packet) write(field string, life time.Duration) {
	p.Helper()
	require.Equal(p, int64(1), p.run(script.Write, field, writing(p.hash+" "+field, entry.NewToken(), life, life)...))
}

func (p *packet) size() int64 {
	p.Helper()
	n, err := p.rdb.HLen(p.Context(), p.hash).Result()
	require.NoError(p, err)
	return n
}

func TestScriptsOfPackedEntriesTouchOneKeyByCommandsThatRunEverywhere(t *testing.T) {
	t.Parallel()
	commands := []string{"HGET", "HSET", "HDEL", "HLEN", "HRANDFIELD", "PTTL", "PEXPIRE", "PERSIST", "UNLINK"}
	allowed := map[string][]string{
		"string": {"rep", "byte", "char", "sub", "find"}, "math": {"floor", "min"}, "redis": {"call", "pcall"},
	}
	seen := map[string]bool{}
	for name, s := range scripts {
		src := s.Packed().Source()
		require.False(t, seen[src], name)
		seen[src] = true
		require.Equal(t, 1, strings.Count(src, "KEYS"), name)
		calls := call.FindAllStringSubmatch(src, -1)
		require.Len(t, calls, strings.Count(src, "call("), "%s calls something that is not a literal", name)
		for _, c := range calls {
			if slices.Contains([]string{"TIME", "PUBLISH", "SPUBLISH"}, c[2]) {
				continue
			}
			require.Contains(t, commands, c[2], name)
			require.NotEmpty(t, c[3], "%s calls %s on another key than its own", name, c[2])
		}
		for _, use := range library.FindAllStringSubmatch(src, -1) {
			if funcs, ok := allowed[use[1]]; ok {
				require.Contains(t, funcs, use[2], name)
			}
		}
		require.Less(t, len(src), 6500, "%s: the source goes over the wire whenever a server has lost it", name)
	}
}

func TestASettledValueHasSevenBytesBesideItsOwn(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		p := &packet{t, rdb, redistest.Key(t)}
		p.write("7", time.Hour)
		require.Len(t, rdb.HGet(t.Context(), p.hash, "7").Val(), 7+len(loaded))
	})
}

// No process reads a whole hash to find entries that have ended. So a process
// that stores an entry deletes some of them.
func TestEntriesThatHaveEndedAreTakenAwayByAFewThatAreStored(t *testing.T) {
	t.Parallel()
	server := redistest.StartEmbedded(t)
	now := time.UnixMilli(stoppedAt)
	server.SetTime(now)
	p := &packet{t, server.Client(nil), redistest.Key(t)}
	const n = 100
	for i := range n {
		p.write(fmt.Sprint(i), time.Minute)
	}
	p.write("hot", time.Hour)
	require.EqualValues(t, n+1, p.size())
	server.SetTime(now.Add(2 * time.Minute))
	for range 100 {
		p.write("hot", time.Hour)
	}
	require.Less(t, p.size(), int64(n/4), "the fields of entries that have ended stay")
	require.NotEmpty(t, p.rdb.HGet(t.Context(), p.hash, "hot").Val())
}

func TestEntriesThatComeAndGoLeaveFewBehind(t *testing.T) {
	t.Parallel()
	server := redistest.StartEmbedded(t)
	now := time.UnixMilli(stoppedAt)
	p := &packet{t, server.Client(nil), redistest.Key(t)}
	const alive = 60
	for i := range 20 * alive { // one a second, each for a minute, under keys that never come again
		server.SetTime(now.Add(time.Duration(i) * time.Second))
		p.write(fmt.Sprint(i), alive*time.Second)
	}
	require.LessOrEqual(t, p.size(), int64(2*alive))
	require.GreaterOrEqual(t, p.size(), int64(alive-1), "entries that are alive were taken away")
}

func TestAHashEndsWithTheLastOfItsEntries(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		p := &packet{t, rdb, redistest.Key(t)}
		ttl := func() time.Duration { return rdb.PTTL(t.Context(), p.hash).Val().Round(time.Minute) }
		p.write("1", time.Hour)
		require.Equal(t, time.Hour, ttl())
		p.write("2", 2*time.Hour)
		require.Equal(t, 2*time.Hour, ttl())
		p.write("3", time.Minute)
		require.Equal(t, 2*time.Hour, ttl(), "the TTL of the others must not become shorter")
		p.write("4", 0)
		require.Equal(t, time.Duration(-1), rdb.PTTL(t.Context(), p.hash).Val(), "one lives forever")
		require.NoError(t, rdb.HDel(t.Context(), p.hash, "1", "2", "3", "4").Err())
		require.Zero(t, rdb.Exists(t.Context(), p.hash).Val())
		p.write("1", time.Hour)
		require.Equal(t, time.Hour, ttl())
		require.NoError(t, rdb.Persist(t.Context(), p.hash).Err())
		p.write("1", time.Hour)
		require.Equal(t, time.Hour, ttl(), "a TTL that was taken away comes again where only one entry is left")
	})
}

func TestGarbageInAHashIsLeftAloneUntilItsFieldIsWritten(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		p := &packet{t, rdb, redistest.Key(t)}
		require.NoError(t, rdb.HSet(t.Context(), p.hash, "x", "garbage", "", "", "y", "\xc1X\x02"+strings.Repeat("v", 60)).Err())
		for range 20 {
			p.write("7", time.Hour)
		}
		require.EqualValues(t, 4, p.size())
		for _, field := range []string{"x", "", "y"} {
			p.write(field, time.Hour)
			_, _, ok := entry.ParsePacked(p.hash+" "+field, []byte(rdb.HGet(t.Context(), p.hash, field).Val()))
			require.True(t, ok, field)
		}
	})
}

func TestAKeyThatIsNoHashIsReplaced(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, rdb *redis.Client) {
		p := &packet{t, rdb, redistest.Key(t)}
		require.NoError(t, rdb.Set(t.Context(), p.hash, "a string", 0).Err())
		require.Equal(t, int64(0), p.run(script.Extend, "7", extending(own)...))
		require.Equal(t, int64(0), p.run(script.Expire, "7"))
		require.Equal(t, "a string", rdb.Get(t.Context(), p.hash).Val(), "who writes nothing changes nothing")
		require.Equal(t, []any{"G"}, p.run(script.Acquire, "7", acquiring(own, ask{})...))
		require.EqualValues(t, 1, p.size())
		require.Positive(t, rdb.PTTL(t.Context(), p.hash).Val())
	})
}

// A waiter gets the name of the entry, and not the key of the hash.
func TestWhoWaitsForAPackedEntryIsToldItsName(t *testing.T) {
	t.Parallel()
	rdb := redistest.Shared(t).Client(nil)
	p := &packet{t, rdb, redistest.Key(t)}
	sub := redistest.Subscribe(t, rdb, script.WakeChannel(p.hash+" 7", p.hash))
	t.Cleanup(func() { _ = sub.Close() })
	require.Equal(t, []any{"G"}, p.run(script.Acquire, "7", acquiring(own, ask{})...))
	require.Equal(t, "W", p.run(script.Acquire, "7", acquiring(other, ask{hint: true})...).([]any)[0])
	require.Equal(t, int64(1), p.run(script.Release, "7", releasing(own)...))
	msg, err := sub.ReceiveMessage(t.Context())
	require.NoError(t, err)
	require.Equal(t, p.hash+" 7", msg.Payload)
}
