package collection

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

func TestRecent_StoresALongListInPartsOrNotAtAll(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		long := make([]int, 3*maxArgs+1)
		for i := range long {
			long[i] = len(long) - i
		}
		for _, n := range []int{maxArgs - 1, maxArgs, maxArgs + 1, len(long)} {
			client, faults, counter := again(t, rdb), new(redistest.Faults), new(redistest.Counter)
			client.AddHook(counter)
			client.AddHook(faults)
			calls := 0
			r := recent(t, client, RecentSpec[int, int]{
				Len: len(long), Up: func(context.Context, int) ([]int, error) { calls++; return long[:n], nil },
				LeaseTTL: time.Hour, // no heartbeat is counted
			})
			has(t, &r.store, 0, long[:n]) // and the server knows the scripts
			counter.Reset()
			has(t, &r.store, 1, long[:n])
			has(t, &r.store, 1, long[:n])
			require.Equal(t, 1+(n+maxArgs-1)/maxArgs, counter.Count("evalsha"), "an acquire and the parts")

			// A deletion between two parts.
			stores := 0
			k := name(t, &r.store, 2)
			faults.Add(redistest.Fault{Times: 1, Match: func(cmd redis.Cmder) bool {
				if is(cmd, script.List.Store) {
					if stores++; stores == (n+maxArgs-1)/maxArgs {
						require.NoError(t, rdb.Del(t.Context(), k).Err())
					}
				}
				return false
			}})
			calls = 0
			has(t, &r.store, 2, long[:n])
			require.Equal(t, 2, calls)
			has(t, &r.store, 2, long[:n])
			require.Equal(t, 2, calls)
		}
	})
}
