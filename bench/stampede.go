package main

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cachex-go/cachex/bench/report"
	"github.com/cachex-go/cachex/internal/redistest"
)

// crowd is one library in front of a missing key. Each of its clients stands
// for a process.
type crowd struct {
	name string
	make func(t testing.TB, addr string, up func(id int64) User) func(ctx context.Context, id int64) error

	server *redistest.Server
	get    []func(ctx context.Context, id int64) error
	loads  atomic.Int64

	waits    [][]time.Duration // beyond the load, of all callers of each round, sorted
	most     int64             // loads in one round
	commands []int64           // in each round
}

const (
	floor = "floor: one process, no Redis"

	clients = 8
	callers = 50
	slow    = 100 * time.Millisecond // duration of a load
)

// stampede measures many callers that ask for a missing value at the same time.
func stampede(t testing.TB, o options) []report.Section {
	crowds := []*crowd{
		{name: ours, make: stampedeOurs},
		{name: "cachex, polling alone", make: stampedeMute},
		{name: "redsync and singleflight", make: stampedeRedsync(0)},
		{name: "redsync, tried every 5 ms", make: stampedeRedsync(5 * time.Millisecond)},
		{name: "go-redis/cache Once", make: stampedeOnce},
		{name: "unguarded, by hand", make: stampedeByHand},
		{name: floor, make: stampedeFloor()},
	}
	for _, c := range crowds {
		c.server = redistest.Start(t)
		up := func(id int64) User {
			c.loads.Add(1)
			time.Sleep(slow)
			return user(id)
		}
		for range clients {
			c.get = append(c.get, c.make(t, c.server.Addr(), up))
		}
	}
	const warm = 2 // rounds that open connections, and measure the cost of a load
	for round := range int64(warm + o.stampedes) {
		for _, i := range rand.Perm(len(crowds)) {
			c := crowds[i]
			if err := c.rush(round, round >= warm); err != nil {
				t.Fatalf("stampede: %s: %v", c.name, err)
			}
		}
	}
	return []report.Section{stampedeTable(crowds)}
}

// rush makes all callers ask for id at once.
func (c *crowd) rush(id int64, counts bool) error {
	commands := c.server.CommandCount()
	c.loads.Store(0)
	errs := make([]error, clients*callers)
	waits := make([]time.Duration, len(errs))
	start := make(chan struct{})
	var ready, done sync.WaitGroup
	var began time.Time // written before start is closed
	for i := range errs {
		ready.Add(1)
		done.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			ready.Done()
			<-start
			errs[i] = c.get[i%clients](ctx, id)
			waits[i] = max(0, time.Since(began)-slow)
		})
	}
	ready.Wait()
	began = time.Now()
	close(start)
	done.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	if counts {
		slices.Sort(waits)
		c.waits = append(c.waits, waits)
		c.most = max(c.most, c.loads.Load())
		c.commands = append(c.commands, c.server.CommandCount()-commands)
	}
	return nil
}

// wait returns the time, beyond the load, within which a share of the callers
// is served: the median of the rounds, and the greatest.
func (c *crowd) wait(share float64) (median, most time.Duration) {
	rounds := make([]time.Duration, len(c.waits))
	for i, waits := range c.waits {
		rounds[i] = waits[int(share*float64(len(waits)-1))]
	}
	return middle(rounds), slices.Max(rounds)
}

func middle[T cmp.Ordered](xs []T) T {
	slices.Sort(xs)
	return xs[len(xs)/2]
}
