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

// shopper is a process that reads keys 0 to SIZE, by GetMany or by a batch, and says how
// many it has loaded.
func shopper() {
	n, err := strconv.Atoi(os.Getenv("SIZE"))
	if err != nil {
		fmt.Println("failed:", err)
		return
	}
	rdb := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), ReadTimeout: 2 * patience})
	w := new(warehouse)
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
	if os.Getenv("BY") == "batch" {
		var b batch.Batch
		all := batch.GetMany(&b, c, numbers(0, n))
		if err = b.Run(ctx); err == nil {
			values, err = all.Get()
		}
	} else {
		values, err = c.GetMany(ctx, numbers(0, n))
	}
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
	fmt.Println("loads:", loads)
	_, _ = c.Close(ctx), rdb.Close() // and the process ends
}

// Two processes, not two clients of one, read the same missing keys, 25 ms away from
// Redis.
func TestMissingKeys_AreLoadedOnceByTwoProcesses(t *testing.T) {
	for by, n := range map[string]int{"GetMany": 100_000, "batch": 100_000} {
		t.Run(by, func(t *testing.T) {
			if raceEnabled {
				n /= 10
			}
			server := redistest.Start(t)
			proxy := redistest.NewProxy(t, server.Addr())
			proxy.Delay(12 * time.Millisecond)
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
				line := p.WaitLine("loads:")
				some, err := strconv.Atoi(strings.TrimSpace(line[strings.Index(line, "loads:")+len("loads:"):]))
				require.NoError(t, err)
				loads += some
				t.Logf("a process has loaded %d keys", some)
			}
			require.Equal(t, n, loads)
			stores(t, newCache(t, server.Client(nil), spec{}), n, "up")
		})
	}
}
