package bench

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
)

// TestStampede has 50 callers on each of 8 clients ask for a key that is missing
// and takes 100 ms to load, and prints how much longer than the load they waited
// and what it cost Redis. The row "floor" is the same with neither Redis nor
// cachex: a channel that is closed after 100 ms.
func TestStampede(t *testing.T) {
	const clients, callers = 8, 50
	const load = 100 * time.Millisecond
	ctx := context.Background()
	server := redistest.Start(t)
	denied := redistest.Start(t)
	admin := denied.Client(nil)
	if err := admin.Do(ctx, "acl", "setuser", "poller", "on", ">poller", "~*", "+@all", "resetchannels").Err(); err != nil {
		t.Fatal(err)
	}
	var loads atomic.Int64
	caches := func(s *redistest.Server, configure func(*redis.Options)) (get []func(id int64) error) {
		for range clients {
			rdb := s.Client(configure)
			c := cachex.Must(cachex.New(rdb, cachex.Spec[int64, User]{
				Key: "stampede:{id}", TTL: time.Hour,
				Up: func(_ context.Context, id int64) (User, error) {
					loads.Add(1)
					time.Sleep(load)
					return user(id), nil
				},
			}))
			t.Cleanup(func() { _ = c.Close(ctx) })
			get = append(get, func(id int64) error { _, err := c.Get(ctx, id); return err })
		}
		return get
	}
	variants := []struct {
		name   string
		server *redistest.Server
		get    []func(id int64) error
	}{
		{"woken by a message", server, caches(server, nil)},
		{"polling alone", denied, caches(denied, func(o *redis.Options) { o.Username, o.Password = "poller", "poller" })},
		{"floor", nil, nil},
	}
	waits := make([][]time.Duration, len(variants))
	commands := make([][]int64, len(variants))
	for round := range int64(*rounds + 2) { // two to warm up: connections, what a load costs
		for i, v := range variants {
			var before int64
			if v.server != nil {
				before = v.server.CommandCount()
			}
			loads.Store(0)
			over := make(chan struct{})
			if v.get == nil {
				time.AfterFunc(load, func() { close(over) })
			}
			var wg sync.WaitGroup
			var mu sync.Mutex
			began := time.Now()
			for n := range clients * callers {
				wg.Go(func() {
					if v.get == nil {
						<-over
					} else if err := v.get[n%clients](round); err != nil {
						t.Error(err)
					}
					beyond := time.Since(began) - load
					mu.Lock()
					defer mu.Unlock()
					if round >= 2 {
						waits[i] = append(waits[i], beyond)
					}
				})
			}
			wg.Wait()
			if v.server == nil {
				continue
			}
			if n := loads.Load(); n != 1 {
				t.Errorf("%s: %d loads, want 1", v.name, n)
			}
			if round >= 2 {
				commands[i] = append(commands[i], v.server.CommandCount()-before-1) // without the INFO that counts
			}
		}
	}
	for i, v := range variants {
		slices.Sort(waits[i])
		at := func(share float64) time.Duration {
			return waits[i][int(share*float64(len(waits[i])-1))].Round(10 * time.Microsecond)
		}
		if v.server == nil {
			t.Logf("%-20s wait beyond the load p50 %v p99 %v", v.name, at(.5), at(.99))
			continue
		}
		slices.Sort(commands[i])
		t.Logf("%-20s wait beyond the load p50 %v p99 %v, commands median %d most %d", v.name, at(.5), at(.99),
			commands[i][len(commands[i])/2], slices.Max(commands[i]))
	}
}
