package script_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// homes has the scripts that restore collections, by their type.
var homes = map[string]*script.Home{"list": &script.List, "ranking": &script.Ranking, "set": &script.Set}

// collectionScripts returns the scripts of collections.
func collectionScripts() map[string]*script.Script {
	all := map[string]*script.Script{
		"push": script.Push, "pull": script.Pull,
		"score": script.Score, "unrank": script.Unrank, "stand": script.Stand,
		"page": script.Page, "enter": script.Enter, "leave": script.Leave, "count": script.Count,
	}
	for kind, h := range homes {
		all["acquire "+kind], all["extend "+kind] = h.Acquire, h.Extend
		all["release "+kind], all["store "+kind] = h.Release, h.Store
	}
	return all
}

// trendingScripts touch several keys, which share a hash tag.
var trendingScripts = map[string]*script.Script{"trend": script.Trend, "trends": script.Trends, "untrend": script.Untrend}

// stored has the members that are stored, for each type in the form that it
// needs.
var stored = map[string][]any{"list": {"b", "a"}, "ranking": {"b", 2, "a", 1}, "set": {"b", "a"}}

// A wait is a process that asks for the lease of a kind, with a message or
// without.
type wait struct{ kind, hint string }

func waiting() map[wait]*script.Home {
	all := make(map[wait]*script.Home)
	for kind, h := range homes {
		all[wait{kind, ""}], all[wait{kind, "1"}] = h, h
	}
	return all
}

func TestTheLeaseOnACollectionIsThatOfItsToken(t *testing.T) {
	t.Parallel()
	const lease, kept = int64(180_000), int64(5_400_000) // ms
	each(t, func(t *testing.T, rdb *redis.Client) {
		for waits, h := range waiting() {
			kind, hint := waits.kind, waits.hint
			c := newCell(t, rdb)
			acquire := func(token, unfit []byte) any { return c.do(h.Acquire, token, lease, unfit, hint) }
			extend := func(token []byte) any { return c.do(h.Extend, token, 2*lease) }
			release := func(token []byte) any { return c.do(h.Release, token) }
			store := func(token []byte, last string) any {
				return c.do(h.Store, append([]any{token, last, lease, kept, 9, ""}, stored[kind]...)...)
			}
			ttl := func(ms int64, what string) {
				t.Helper()
				c.requireTTL(time.Duration(ms)*time.Millisecond, c.t0, kind+": "+what)
			}
			granted, there := []any{"G", ""}, []any{"V", ""}
			held := func(reply any) {
				t.Helper()
				holder := string(own[:])
				if kind == "set" {
					holder = string(make([]byte, 8)) // a set has no first element, so its holder is not known
				}
				require.Equal(t, []any{"W", holder}, reply, kind)
			}

			for what, reply := range map[string]any{"extend": extend(own[:]), "release": release(own[:]), "store": store(own[:], "1")} {
				require.Equal(t, int64(0), reply, "%s of a %s that is absent", what, kind)
				require.Equal(t, "none", c.snapshot())
			}
			require.Equal(t, granted, acquire(own[:], nil), kind)
			ttl(lease, "leased")
			require.Equal(t, granted, acquire(own[:], nil), "%s: a copy", kind)
			held(acquire(other[:], nil))
			for what, reply := range map[string]any{
				"extend": extend(other[:]), "release": release(other[:]), "store": store(other[:], "1"), "a part": store(other[:], ""),
			} {
				require.Equal(t, int64(0), reply, "%s by another of a %s that is leased", what, kind)
			}
			require.Equal(t, int64(1), extend(own[:]), kind)
			ttl(2*lease, "extended")
			require.NoError(t, rdb.Persist(t.Context(), c.key).Err())
			held(acquire(other[:], nil))
			ttl(lease, "a lease without a TTL")
			require.Equal(t, int64(1), release(own[:]), kind)
			require.Equal(t, "none", c.snapshot(), kind)

			require.Equal(t, granted, acquire(own[:], nil), kind)
			require.Equal(t, int64(1), extend(own[:]), kind)
			require.Equal(t, int64(3), store(own[:], ""), "%s: nothing else was there", kind)
			ttl(lease, "a part")
			held(acquire(other[:], nil))
			require.Equal(t, int64(1), store(own[:], "1"), kind)
			since := c.t0
			require.Equal(t, int64(2), store(own[:], "1"), "%s: a copy of the last part", kind)
			require.Equal(t, int64(0), store(other[:], "1"), kind)
			require.Equal(t, there, acquire(other[:], nil), kind)
			require.Equal(t, there, acquire(own[:], nil), kind)
			require.Equal(t, there, acquire(other[:], other[:]), "%s: what is unfit has another token", kind)
			require.Equal(t, int64(0), extend(own[:]), kind)
			require.Equal(t, int64(0), release(own[:]), kind)
			c.requireTTL(time.Duration(kept)*time.Millisecond, since, kind+": stored")
			require.Equal(t, granted, acquire(other[:], own[:]), "%s: it is unfit", kind)
			require.Equal(t, int64(1), release(other[:]), kind)
			require.Equal(t, "none", c.snapshot(), kind)

			require.Equal(t, granted, acquire(own[:], nil), kind)
			require.Equal(t, int64(3), c.do(h.Store, append([]any{own[:], "1", lease, "", 9, ""}, stored[kind]...)...), kind)
			ttl(0, "stored forever")
		}
	})
}

func TestACollectionReplacesWhatIsForeign(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		for kind, h := range homes {
			for what, put := range map[string]func(k string) error{
				"string": func(k string) error { return rdb.Set(ctx, k, "v", 0).Err() },
				"list":   func(k string) error { return rdb.RPush(ctx, k, "v", "w").Err() },
				"hash":   func(k string) error { return rdb.HSet(ctx, k, "v", "w").Err() },
				"set":    func(k string) error { return rdb.SAdd(ctx, k, "v", "w").Err() },
				"zset":   func(k string) error { return rdb.ZAdd(ctx, k, redis.Z{Member: "v"}, redis.Z{Member: "w"}).Err() },
			} {
				c := newCell(t, rdb)
				require.NoError(t, put(c.key))
				require.Equal(t, int64(0), c.do(h.Extend, own[:], 1000), what)
				require.Equal(t, int64(0), c.do(h.Release, own[:]), what)
				require.Equal(t, int64(0), c.do(h.Store, own[:], "1", 1000, 1000, 9, ""), what)
				require.Equal(t, what, rdb.Type(ctx, c.key).Val())
				require.Equal(t, []any{"G", ""}, c.do(h.Acquire, own[:], 600_000, ""), "%s: %s", kind, what)
				require.Equal(t, int64(1), c.do(h.Release, own[:]), what)
			}
		}
	})
}
