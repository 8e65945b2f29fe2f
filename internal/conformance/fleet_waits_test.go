package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

var (
	fleetPairs = flag.String("fleet.pairs", "1,5", "how many pairs of processes contend for keys")
	fleetLoads = flag.Int("fleet.loads", 20, "for how many keys each pair contends")
)

// ofWaits are the commands that loads and waits send, with what their scripts call.
var ofWaits = []string{"get", "evalsha", "eval", "ssubscribe", "sunsubscribe"}

type contended struct {
	Pair string
	N    int
}

func init() {
	// It reads one key after the other. The loader of a key returns when the other
	// process of the pair listens for the key.
	redistest.Register("contending member", func() {
		ctx, rdb := context.Background(), redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), ReadTimeout: patience})
		var c *cachex.Cache[contended, string]
		c = cachex.Must(cachex.New(rdb, cachex.Spec[contended, string]{
			Key: "contended:{pair}:{n}", TTL: time.Hour, LeaseTTL: time.Minute,
			Up: func(ctx context.Context, key contended) (string, error) {
				k := c.Key(key)
				for channel := script.WakeChannel(k, k); ; {
					heard, err := rdb.PubSubShardNumSub(ctx, channel).Result()
					if err != nil {
						return "", err
					}
					if heard[channel] > 0 {
						return "value", rdb.Incr(ctx, "loads").Err()
					}
					select {
					case <-time.After(time.Millisecond):
					case <-ctx.Done():
						return "", ctx.Err()
					}
				}
			},
		}))
		fmt.Println("ready")
		if err := rdb.BLPop(ctx, 0, "start").Err(); err != nil {
			panic(err)
		}
		keys, err := strconv.Atoi(os.Getenv("KEYS"))
		for n := 0; n < keys && err == nil; n++ {
			_, err = c.Get(ctx, contended{os.Getenv("PAIR"), n})
		}
		fmt.Println("done", errors.Join(err, c.Close(ctx)))
	})
}

// TestFleet_OfProcessesSharesEachContendedLoad has pairs of processes contend for the
// same keys on a real server, and logs what a contended load costs that. For the figures
// of docs/scale.md:
//
//	go test ./internal/conformance -run Fleet_OfProcessesShares -v -fleet.pairs 1,5,20 -fleet.loads 200
func TestFleet_OfProcessesSharesEachContendedLoad(t *testing.T) {
	t.Parallel()
	for _, field := range strings.Split(*fleetPairs, ",") {
		pairs, err := strconv.Atoi(field)
		require.NoError(t, err)
		t.Run(field, func(t *testing.T) {
			server := redistest.Start(t)
			rdb := server.Client(nil)
			if !redistest.Sharded(t, rdb) {
				t.Skip("the server has no sharded channels")
			}
			var all []*redistest.Process
			for i := range 2 * pairs {
				all = append(all, redistest.Child(t, "contending member",
					"REDIS="+server.Addr(), fmt.Sprint("PAIR=", i/2), fmt.Sprint("KEYS=", *fleetLoads)))
			}
			for _, p := range all {
				p.WaitLine("ready")
			}
			require.NoError(t, rdb.ConfigResetStat(t.Context()).Err())
			for range all {
				require.NoError(t, rdb.RPush(t.Context(), "start", "now").Err())
			}
			for _, p := range all {
				require.Equal(t, "done <nil>", p.WaitLine("done"))
			}
			loads, err := rdb.Get(t.Context(), "loads").Int()
			require.NoError(t, err)
			require.Equal(t, pairs**fleetLoads, loads, "one load for each key")
			info, err := rdb.Info(t.Context(), "commandstats").Result()
			require.NoError(t, err)
			text, spent := "", 0.
			for _, name := range ofWaits {
				_, stats, found := strings.Cut(info, "cmdstat_"+name+":calls=")
				if !found {
					continue
				}
				var calls int
				var usec float64
				_, err := fmt.Sscanf(stats, "%d,usec=%f", &calls, &usec)
				require.NoError(t, err)
				if name == "evalsha" || name == "get" {
					text += fmt.Sprintf(" %.2f %s,", float64(calls)/float64(loads), name)
				}
				spent += usec
			}
			t.Logf("%d processes: a contended load costs%s %.0f µs of the server", 2*pairs, text, spent/float64(loads))
		})
	}
}
