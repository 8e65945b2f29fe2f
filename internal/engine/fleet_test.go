package engine

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// A thousand keys and five processes in real time: the test asserts no
// duration, but no turn may be taken twice. A turn is identified by the slot of
// its record. The lease is long, since a machine that stands still for longer
// takes turns over. A machine that stands still for longer than a record lives
// starts again.
func TestPeriodic_NoTurnIsTakenTwiceOnARealServer(t *testing.T) {
	t.Parallel()
	const processes, keys, turnsOfEach, every = 5, 1000, 4, time.Second
	server := redistest.Start(t)
	var names []string
	for i := range keys {
		names = append(names, fmt.Sprint("turn:", i))
	}
	type turnOf struct {
		key  int
		slot int64
	}
	var mu sync.Mutex
	loads, per := map[turnOf]int{}, make([]int, keys) // guarded by mu
	lacking := keys                                   // guarded by mu: keys with too few turns
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	stands := time.AfterFunc(patience, stop) // the fleet stands still
	defer stands.Stop()
	var commands redistest.Counter // of the turns alone
	asks := server.Client(nil)
	var all sync.WaitGroup
	began := time.Now()
	for range processes {
		rdb := server.Client(nil)
		rdb.AddHook(&commands)
		l, err := newTyped(rdb, typedOptions[int]{LeaseTTL: patience})
		require.NoError(t, err)
		all.Go(func() {
			_ = l.Turns().Run(ctx, every, names, func(_ context.Context, due []int) error {
				record, err := asks.Get(context.Background(), names[due[0]]).Bytes()
				if err != nil || len(record) != 24 || record[3] != 'R' {
					t.Errorf("key %d is refreshed without a turn: %q %v", due[0], record, err)
					return nil
				}
				slot := int64(binary.BigEndian.Uint64(record[10:]) & (1<<48 - 1))
				stands.Reset(patience)
				mu.Lock()
				defer mu.Unlock()
				loads[turnOf{due[0], slot}]++
				if per[due[0]]++; per[due[0]] == turnsOfEach {
					if lacking--; lacking == 0 {
						stop()
					}
				}
				return nil
			})
		})
	}
	all.Wait()
	took := time.Since(began)
	require.Zero(t, lacking, "no key has had a turn for %v", patience)
	total := 0
	slots := map[int][]int64{}
	for turn, n := range loads {
		require.Equal(t, 1, n, "key %d was refreshed %d times in one period", turn.key, n)
		slots[turn.key] = append(slots[turn.key], turn.slot)
		total += n
	}
	for key, of := range slots {
		for _, slot := range of {
			require.Zero(t, (slot-of[0])%every.Milliseconds(), "key %d has drifted: %v", key, of)
		}
	}
	t.Logf("%d keys, %d processes, %v each: %d loads in %v, %.0f a second; %.0f commands and %.0f round trips a second",
		keys, processes, every, total, took.Round(time.Millisecond), float64(total)/took.Seconds(),
		float64(commands.Count())/took.Seconds(), float64(commands.RoundTrips())/took.Seconds())
}
