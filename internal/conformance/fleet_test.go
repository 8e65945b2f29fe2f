package conformance

import (
	"context"
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
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

var (
	fleets       = flag.String("fleet", "1,10", "how many processes to measure what they cost Redis at rest")
	fleetEvery   = flag.Duration("fleet.every", 200*time.Millisecond, "their period")
	fleetPeriods = flag.Int("fleet.periods", 15, "for how many periods")
)

const (
	fleetKeys    = 10 // of RefreshEvery
	fleetBuckets = 64 // of write-behind, the default
)

func init() {
	redistest.Register("refreshing member", func() {
		rdb, every := memberOf()
		c := cachex.Must(cachex.New(rdb, cachex.Spec[int, string]{
			Key: "fleet:{id}", TTL: time.Hour,
			Up: func(ctx context.Context, _ int) (string, error) { return "v", rdb.Incr(ctx, "loads").Err() },
		}))
		var ids []int
		for id := range fleetKeys {
			ids = append(ids, id)
		}
		fmt.Println("running")
		fmt.Println(c.RefreshEvery(context.Background(), every, ids...))
	})
	redistest.Register("writing member", func() {
		rdb, every := memberOf()
		e := cachex.Must(writebehind.New(rdb, writebehind.Options{
			Name: "fleet", Merge: writebehind.Sum, Every: every, Buckets: fleetBuckets,
			Persist: func(context.Context, ledger.Batch) error { return nil },
		}))
		e.Start()
		fmt.Println("running")
		select {}
	})
}

// memberOf returns the client and the period of a child.
func memberOf() (*redis.Client, time.Duration) {
	every, err := time.ParseDuration(os.Getenv("EVERY"))
	if err != nil {
		panic(err)
	}
	return redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS")}), every
}

// TestFleet_AtRestCostsRedisNoMoreThanAProcess counts the scripts that processes at
// rest run on a real server. For the figures of docs/scale.md:
//
//	go test ./internal/conformance -run Fleet_AtRest -v -fleet 1,10,40 -fleet.every 1s -fleet.periods 30
func TestFleet_AtRestCostsRedisNoMoreThanAProcess(t *testing.T) {
	t.Parallel()
	for _, kind := range []struct {
		child string
		keys  int
		most  float64 // scripts of a fleet, as a share of those of one process
		turns func(t *testing.T, rdb *redis.Client) int
	}{
		{"refreshing member", fleetKeys, 1.5, func(t *testing.T, rdb *redis.Client) int {
			n, err := rdb.Get(t.Context(), "loads").Int()
			require.True(t, err == nil || err == redis.Nil, err)
			return n
		}},
		{"writing member", 1, 1.1, func(t *testing.T, rdb *redis.Client) int {
			record, err := rdb.Get(t.Context(), "{fleet}%turn").Result()
			require.True(t, err == nil || err == redis.Nil, err)
			if len(record) != 24 {
				return 0
			}
			at := 0
			for _, b := range []byte(record[12:18]) { // when the period began
				at = at<<8 | int(b)
			}
			return at / int(fleetEvery.Milliseconds())
		}},
	} {
		t.Run(kind.child, func(t *testing.T) {
			t.Parallel()
			one := 0.0
			for _, field := range strings.Split(*fleets, ",") {
				processes, err := strconv.Atoi(field)
				require.NoError(t, err)
				t.Run(field, func(t *testing.T) {
					cost := fleetCost(t, kind.child, processes, kind.keys, kind.turns)
					if one == 0 {
						one = cost
					}
					require.LessOrEqual(t, cost, kind.most*one)
				})
			}
		})
	}
}

// fleetCost returns how many scripts the server runs for each turn of a fleet.
func fleetCost(t *testing.T, child string, processes, keys int, turns func(*testing.T, *redis.Client) int) float64 {
	server := redistest.Start(t)
	rdb := server.Client(nil)
	var all []*redistest.Process
	for range processes {
		all = append(all, redistest.Child(t, child, "REDIS="+server.Addr(), "EVERY="+fleetEvery.String()))
	}
	for _, p := range all {
		p.WaitLine("running")
	}
	after := func(periods int) (passed int) {
		first := turns(t, rdb)
		require.Eventually(t, func() bool {
			passed = turns(t, rdb) - first
			return passed >= periods*keys
		}, patience+2*time.Duration(periods)**fleetEvery, 10*time.Millisecond)
		return passed
	}
	after(5) // until each process has a place in the queue
	ran, began := server.CommandCount("evalsha", "eval"), time.Now()
	passed := after(*fleetPeriods)
	ran = server.CommandCount("evalsha", "eval") - ran
	cost := float64(ran) / float64(passed)
	t.Logf("%s, %d processes: %.2f scripts a turn, %.0f a second", child, processes, cost, float64(ran)/time.Since(began).Seconds())
	return cost
}
