package script_test

import (
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// aBucket returns the keys of a bucket of write-behind.
func aBucket() (p string, more []string) {
	return "{b}p", []string{"{b}i", "{b}d", "{b}u", "{b}l"}
}

// The time that a script takes depends on how many commands it runs. The test
// counts them, since it cannot measure time.
func TestParkAndSettleBatch_RunTwoCommandsForEachID(t *testing.T) {
	t.Parallel()
	const n, fixed = 1000, 20
	ids := func(prefix string) (all []any) {
		for i := range n {
			all = append(all, fmt.Sprint(prefix, "id", i), "7")
		}
		return all
	}
	for _, merge := range []string{"sum", "last"} {
		for _, given := range []bool{false, true} { // whether another process was given the batch
			t.Run(fmt.Sprintf("%s, given %v", merge, given), func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				rdb := server.Client(nil)
				p, more := aBucket()
				run := func(s *script.Script, args ...any) (most, calls int64) {
					for {
						before := server.CommandCount()
						c := &script.Call{Script: s, Key: p, More: more, Args: args}
						require.NoError(t, c.Run(t.Context(), rdb))
						most, calls = max(most, server.CommandCount()-before), calls+1
						if c.Reply != int64(2) {
							require.EqualValues(t, 1, c.Reply)
							return most, calls
						}
					}
				}
				batch := append(ids(""), "#n", "5", "#a", "4", "#tok", "T", "#inc", "1", "#by", "me", "#t0", "17")
				if given {
					batch = append(batch, "#r", "1")
				}
				require.NoError(t, rdb.HSet(t.Context(), more[0], batch...).Err())
				parked, _ := run(script.ParkBatch, "5", "T", merge, "me")
				unread, left := rdb.HGetAll(t.Context(), more[2]).Val(), rdb.HGetAll(t.Context(), more[3]).Val()
				if given {
					require.Empty(t, unread)
					require.Len(t, left, n+2)
					require.Equal(t, "T ", left["#p"])
					require.Equal(t, "T 1:7", left["id999"])
					require.Less(t, parked, int64(n/50+fixed))
				} else {
					require.Empty(t, left)
					require.Len(t, unread, n+2)
					require.Equal(t, "17", unread["#t0"])
					require.Equal(t, "T", unread["#v"])
					require.Equal(t, "7", unread["id999"])
					require.Less(t, parked, int64(2*n+fixed))
					return
				}

				// The next batch has the same number, and the database has the
				// next batch: the parked data was not persisted.
				require.NoError(t, rdb.HSet(t.Context(), more[0], "x", "1", "#n", "5", "#a", "4", "#tok", "S", "#by", "me").Err())
				settled, parts := run(script.SettleBatch, "5", "S", merge, "another", "5", "6", "fresh", 100, "0")
				unread = rdb.HGetAll(t.Context(), more[2]).Val()
				require.Len(t, unread, n+2)
				require.Equal(t, "T", unread["#v"])
				require.NotEmpty(t, unread["#t0"])
				require.Less(t, settled, int64(5*100+fixed), "commands of one call")
				require.Less(t, parts, int64(2*n/100+2), "two for each element: it and its id")
			})
		}
	}
}

// The pages come from a real server: the embedded one returns all at once.
func TestListRefused_ReturnsPages(t *testing.T) {
	t.Parallel()
	const n, most = 5000, 512
	rdb := redistest.Shared(t).Client(nil)
	key := "{" + redistest.Key(t) + "}"
	all := make([]any, 0, 2*n)
	for i := range n {
		all = append(all, fmt.Sprint("id", i), i)
	}
	require.NoError(t, rdb.HSet(t.Context(), key+"d", all...).Err())
	seen, pages, cursor := map[string]string{}, 0, "0"
	for pages == 0 || cursor != "0" {
		c := &script.Call{Script: script.ListRefused, Key: key + "p", More: []string{key + "i", key + "d"}, Args: []any{cursor}}
		require.NoError(t, c.Run(t.Context(), rdb))
		reply, _ := c.Reply.([]any)
		require.Len(t, reply, 2)
		page, _ := reply[1].([]any)
		require.LessOrEqual(t, len(page)/2, most)
		for k := 0; k < len(page); k += 2 {
			seen[page[k].(string)] = page[k+1].(string)
		}
		pages, cursor = pages+1, reply[0].(string)
	}
	require.Len(t, seen, n)
	require.Equal(t, "4999", seen["id4999"])
	require.Greater(t, pages, n/most)
}

// A refused total replaces the older delta that no process could read. If the
// delta became pending again, it would count twice beside the total.
func TestAckBatch_OfARefusedValueForgetsWhatIsOlder(t *testing.T) {
	t.Parallel()
	for merge, v := range map[string]string{"sum": "=5", "last": "newer"} {
		redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
			key := "{" + redistest.Key(t) + merge + "}"
			p, more := key+"p", []string{key + "i", key + "d", key + "u", key + "l"}
			require.NoError(t, rdb.HSet(t.Context(), more[0], "id", v, "#n", "5", "#a", "4", "#tok", "T", "#inc", "1", "#by", "me").Err())
			require.NoError(t, rdb.HSet(t.Context(), more[2], "id", "2", "other", "3", "#t0", "17", "#v", "S").Err())
			c := &script.Call{Script: script.AckBatch, Key: p, More: more, Args: []any{"5", "T", merge, "100", "1", "id"}}
			require.NoError(t, c.Run(t.Context(), rdb))
			require.EqualValues(t, 1, c.Reply)
			require.Equal(t, map[string]string{"id": v}, rdb.HGetAll(t.Context(), more[1]).Val(), "refused")
			require.Equal(t, map[string]string{"other": "3", "#t0": "17", "#v": "S"}, rdb.HGetAll(t.Context(), more[2]).Val(), "unread")
		})
	}
}
