package sizes

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/redistest"
)

// shopper is a process that reads keys 0 to SIZE, by GetMany or by a batch. It prints how
// many keys it has loaded, and how much memory it needed beside the result.
func shopper() {
	n, err := strconv.Atoi(os.Getenv("SIZE"))
	if err != nil {
		fmt.Println("failed:", err)
		return
	}
	rdb := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), ReadTimeout: 2 * patience})
	w := &warehouse{keys: make(map[int]int, n)}
	c, err := cachex.New(rdb, cachex.Spec[int, string]{Key: "k:{id}", TTL: time.Hour, UpMany: w.upMany})
	if err != nil {
		fmt.Println("failed:", err)
		return
	}
	ctx := context.Background()
	fmt.Println("ready:")
	if err := rdb.BLPop(ctx, patience, "go").Err(); err != nil { // until its sibling is ready, too
		fmt.Println("failed:", err)
		return
	}
	var values map[int]string
	needs := beside(func(look func()) any {
		few := now(n, look)
		w.during = func() {
			fmt.Println("shopper: at work")
			few()
		}
		if os.Getenv("BY") == "batch" {
			var b batch.Batch
			all := batch.GetMany(&b, c, numbers(0, n))
			if err = b.Run(ctx); err == nil {
				values, err = all.Get()
			}
		} else {
			values, err = c.GetMany(ctx, numbers(0, n))
		}
		look()
		return values
	})
	for id, v := range values {
		if v != fmt.Sprint("up", id) {
			err = fmt.Errorf("key %d has the value %q", id, v)
		}
	}
	if err != nil || len(values) != n {
		fmt.Printf("failed: %d values, %v\n", len(values), err)
		return
	}
	loads := 0
	for _, times := range w.keys {
		loads += times
	}
	fmt.Println("shopper: needs:", needs)
	fmt.Println("shopper: loads:", loads)
	_, _ = c.Close(ctx), rdb.Close() // and the process ends
}

// Two processes, not two clients of one, read the same missing keys, 50 ms away from
// Redis: each key is loaded once, all are stored, and neither needs much memory.
func TestMissingKeys_AreLoadedOnceByTwoProcesses(t *testing.T) {
	sizes := []int{10_000, 100_000}
	if os.Getenv("CACHEX_SIZES") != "" { // which takes minutes
		sizes = append(sizes, 1_000_000)
	}
	if raceEnabled {
		sizes = sizes[:1]
	}
	for _, n := range sizes {
		for _, by := range []string{"GetMany", "batch"} {
			t.Run(fmt.Sprint(by, n), func(t *testing.T) {
				server := redistest.Start(t)
				proxy := redistest.NewProxy(t, server.Addr())
				proxy.Delay(25 * time.Millisecond) // each way
				var both []*redistest.Process
				for range 2 {
					both = append(both, redistest.Child(t, "shopper", "REDIS="+proxy.Addr(), "BY="+by, fmt.Sprint("SIZE=", n)))
				}
				for _, p := range both {
					p.WaitLine("ready:")
				}
				require.NoError(t, server.Client(nil).RPush(t.Context(), "go", 1, 2).Err())
				loads := 0
				for _, p := range both {
					needs, some := said(t, p, "needs:"), said(t, p, "loads:")
					t.Logf("a process has loaded %d keys, and needed %d KB beside its result", some, needs>>10)
					if !raceEnabled {
						require.Less(t, needs, mostBeside)
					}
					loads += some
				}
				require.Equal(t, n, loads)
				stores(t, newCache(t, server.Client(nil), spec{}), n, "up")
			})
		}
	}
}

// said waits for a line of a shopper that contains text, and returns the number
// behind it. It waits for as long as the shopper is at work.
func said(t *testing.T, p *redistest.Process, text string) int {
	t.Helper()
	for {
		_, number, ok := strings.Cut(p.WaitLine("shopper:"), text)
		if ok {
			n, err := strconv.Atoi(strings.TrimSpace(number))
			require.NoError(t, err)
			return n
		}
	}
}
