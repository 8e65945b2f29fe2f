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
		c, ids := refresher(rdb, fleetKeys, func() error { return rdb.Incr(context.Background(), "loads").Err() })
		fmt.Println("running")
		fmt.Println(c.RefreshEvery(context.Background(), every, ids...))
	})
	redistest.Register("writing member", func() {
		rdb, every := memberOf()
		writer(rdb, every, fleetBuckets)
		fmt.Println("running")
		select {}
	})
}

// refresher returns a cache that tells of each load, and as many keys to refresh.
func refresher(rdb *redis.Client, keys int, loaded func() error) (c *cachex.Cache[int, string], ids []int) {
	for id := range keys {
		ids = append(ids, id)
	}
	return cachex.Must(cachex.New(rdb, cachex.Spec[int, string]{
		Key: "fleet:{id}", TTL: time.Hour, Up: func(context.Context, int) (string, error) { return "v", loaded() },
	})), ids
}

// writer starts an engine that has nothing to write.
func writer(rdb *redis.Client, every time.Duration, buckets int) *writebehind.Engine {
	e := cachex.Must(writebehind.New(rdb, writebehind.Options{
		Name: "fleet", Merge: writebehind.Sum, Every: every, Buckets: buckets,
		Persist: func(context.Context, ledger.Batch) error { return nil },
	}))
	e.Start()
	return e
}

// memberOf returns the client and the period of a child.
func memberOf() (*redis.Client, time.Duration) {
	every, err := time.ParseDuration(os.Getenv("EVERY"))
	if err != nil {
		panic(err)
	}
	return redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), ReadTimeout: patience}), every
}

// TestFleet_AtRestCostsRedisNoMoreThanAProcess counts the scripts that processes at
// rest send, in a bubble, where no turn is late. Of those that do not have the turn, one
// looks.
func TestFleet_AtRestCostsRedisNoMoreThanAProcess(t *testing.T) {
	t.Parallel()
	const every, periods, keys, buckets = time.Second, 10, 3, 4
	for name, kind := range map[string]struct {
		turns int // in a period
		start func(t *testing.T, rdb *redis.Client) (stop func())
	}{
		"refreshing": {keys, func(t *testing.T, rdb *redis.Client) func() {
			c, ids := refresher(rdb, keys, func() error { return nil })
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- c.RefreshEvery(ctx, every, ids...) }()
			return func() {
				cancel()
				require.ErrorIs(t, <-ended, context.Canceled)
				require.NoError(t, c.Close(t.Context()))
			}
		}},
		"writing": {1, func(t *testing.T, rdb *redis.Client) func() {
			e := writer(rdb, every, buckets)
			return func() { require.NoError(t, e.Close(t.Context())) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cost := func(processes int) (scripts int) {
				redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
					sent := new(redistest.Counter)
					for range processes {
						one := redis.NewClient(rdb.Options())
						one.AddHook(sent)
						stop := kind.start(t, one)
						defer func() { stop(); require.NoError(t, one.Close()) }()
						time.Sleep(7 * time.Millisecond)
					}
					time.Sleep(2 * periods * every) // until each process has a place in the queue
					sent.Reset()
					time.Sleep(periods * every)
					scripts = sent.Count("evalsha", "eval")
				})
				return scripts
			}
			one, fleet := cost(1), cost(10)
			require.GreaterOrEqual(t, one, 2*kind.turns*periods, "a process takes no turns")
			require.InDelta(t, kind.turns*periods, fleet-one, float64(kind.turns*periods)/5, "not one look a turn")
		})
	}
}

// TestFleet_OfProcessesTakesItsTurns has processes take turns on a real server, and logs
// what that costs. How many look at a turn in vain depends on how late it is, so on the
// machine. For the figures of docs/scale.md:
//
//	go test ./internal/conformance -run Fleet_OfProcessesTakes -v -fleet 1,10,40 -fleet.every 1s -fleet.periods 30
func TestFleet_OfProcessesTakesItsTurns(t *testing.T) {
	t.Parallel()
	for _, kind := range []struct {
		child string
		keys  int
		turns func(t *testing.T, rdb *redis.Client) int
	}{
		{"refreshing member", fleetKeys, func(t *testing.T, rdb *redis.Client) int {
			n, err := rdb.Get(t.Context(), "loads").Int()
			require.True(t, err == nil || err == redis.Nil, err)
			return n
		}},
		{"writing member", 1, func(t *testing.T, rdb *redis.Client) int {
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
			for _, field := range strings.Split(*fleets, ",") {
				processes, err := strconv.Atoi(field)
				require.NoError(t, err)
				t.Run(field, func(t *testing.T) {
					fleetCost(t, kind.child, processes, kind.keys, kind.turns)
				})
			}
		})
	}
}

// fleetCost logs how many scripts the server runs for each turn of a fleet.
func fleetCost(t *testing.T, child string, processes, keys int, turns func(*testing.T, *redis.Client) int) {
	t.Helper()
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
}
