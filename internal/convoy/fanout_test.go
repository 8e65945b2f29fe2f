package convoy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// shards is the set of servers of a Ring in a bubble. Names are the names of
// its shards.
type shards struct {
	rdb     *redis.Ring
	servers map[string]*redistest.Memory
	keys    map[string]string // one of each server
	trips   redistest.Counter
}

// inShards runs f with a Ring of n servers that know the script.
func inShards(t *testing.T, n int, f func(t *testing.T, s *shards)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &shards{servers: map[string]*redistest.Memory{}, keys: map[string]string{}}
		addrs := map[string]string{}
		for i := range n {
			m, err := redistest.OpenMemory()
			require.NoError(t, err)
			defer m.Close()
			name := fmt.Sprint("shard", i+1)
			s.servers[name], addrs[name] = m, name
		}
		s.rdb = redis.NewRing(&redis.RingOptions{Addrs: addrs, HeartbeatFrequency: math.MaxInt64, NewClient: func(o *redis.Options) *redis.Client {
			opts := s.servers[o.Addr].Options()
			opts.Addr, opts.ReadTimeout = o.Addr, time.Hour
			return redis.NewClient(opts)
		}})
		defer func() { require.NoError(t, s.rdb.Close()) }()
		require.NoError(t, s.rdb.ForEachShard(t.Context(), func(ctx context.Context, node *redis.Client) error {
			if err := node.ScriptLoad(ctx, echo.Source()).Err(); err != nil {
				return err
			}
			_, err := node.Pipelined(ctx, func(p redis.Pipeliner) error { // a pipeline has a connection of its own
				p.Ping(ctx)
				p.Ping(ctx)
				return nil
			})
			return err
		}))
		for i := 0; len(s.keys) < n; i++ {
			key := fmt.Sprint("key", i)
			node, err := s.rdb.GetShardClientForKey(key)
			require.NoError(t, err)
			s.keys[node.Options().Addr] = key
		}
		s.rdb.AddHook(&s.trips)
		f(t, s)
		synctest.Wait()
	})
}

// gets queues two reads of a key of each server, and returns their indexes by
// server.
func (s *shards) gets(ctx context.Context, rdb redis.UniversalClient) (redis.Pipeliner, map[string][]int) {
	p, at := rdb.Pipeline(), map[string][]int{}
	for range 2 {
		for name, key := range s.keys {
			at[name] = append(at[name], p.Len())
			p.Get(ctx, key)
		}
	}
	return p, at
}

// calls returns a call for each server, with the name of the server as the
// reply.
func (s *shards) calls() (all []*script.Call, at map[string]int) {
	at = map[string]int{}
	for name, key := range s.keys {
		at[name] = len(all)
		all = append(all, &script.Call{Script: echo, Key: key, Args: []any{name}})
	}
	return all, at
}

// hidden is a client that does not tell its servers.
type hidden struct{ redis.UniversalClient }

func TestDepart_SendsOnePipelineToEachServerThatTheClientTells(t *testing.T) {
	t.Parallel()
	inShards(t, 3, func(t *testing.T, s *shards) {
		for want, rdb := range map[int]redis.UniversalClient{3: s.rdb, 1: hidden{s.rdb}} {
			s.trips.Reset()
			p, at := s.gets(t.Context(), rdb)
			trips := Depart(t.Context(), rdb, time.Minute, guard.Go, p)
			require.True(t, trips.Wait(t.Context(), 0))
			require.Equal(t, want, s.trips.RoundTrips())
			for _, is := range at {
				for _, i := range is {
					over, err := trips.Ended(i)
					require.True(t, over)
					require.NoError(t, err)
				}
			}
			require.Empty(t, trips.Late())
		}
	})
}

func TestDepart_OfNothingHasEnded(t *testing.T) {
	t.Parallel()
	inShards(t, 2, func(t *testing.T, s *shards) {
		trips := Depart(t.Context(), s.rdb, time.Minute, guard.Go, s.rdb.Pipeline())
		require.True(t, trips.Wait(t.Context(), 0))
		over, err := trips.EndedAll(0, 0)
		require.True(t, over)
		require.NoError(t, err)
		require.Zero(t, s.trips.RoundTrips())
	})
}

// The times are those of a bubble.
func TestWait_LeavesServersThatTakeMuchLongerThanTheFirst(t *testing.T) {
	t.Parallel()
	for _, some := range []struct {
		first, most time.Duration
		spread      time.Duration // how long the others are waited for after the first
	}{
		{first: 0, spread: leastSpread},
		{first: 100 * ms, spread: 100 * ms},
		{first: time.Second, spread: mostSpread},
		{first: time.Second, most: 20 * ms, spread: 20 * ms},
	} {
		t.Run(fmt.Sprint(some.first, some.most), func(t *testing.T) {
			t.Parallel()
			inShards(t, 3, func(t *testing.T, s *shards) {
				s.servers["shard1"].Delay(some.first)
				s.servers["shard2"].Delay(some.first + some.spread - ms) // just in time
				s.servers["shard3"].Delay(10 * time.Second)
				p, at := s.gets(t.Context(), s.rdb)
				began := time.Now()
				trips := Depart(t.Context(), s.rdb, time.Minute, guard.Go, p)
				require.False(t, trips.Wait(t.Context(), some.most))
				require.Equal(t, some.first+some.spread, time.Since(began))
				require.Equal(t, []string{"shard3"}, trips.Late())
				for name, is := range at {
					over, _ := trips.Ended(is[0])
					require.Equal(t, name != "shard3", over)
				}
				over, _ := trips.EndedAll(0, p.Len()+6)
				require.False(t, over)
				require.True(t, trips.Wait(t.Context(), some.most))
				require.Equal(t, 10*time.Second, time.Since(began))
				require.Empty(t, trips.Late())
			})
		})
	}
}

func TestDepart_ErrorOfOneServerIsNoneOfTheOthers(t *testing.T) {
	t.Parallel()
	inShards(t, 2, func(t *testing.T, s *shards) {
		s.servers["shard1"].Refuse(true)
		s.servers["shard1"].Cut()
		p, at := s.gets(t.Context(), s.rdb)
		trips := Depart(t.Context(), s.rdb, time.Minute, guard.Go, p)
		for over := false; !over; {
			over = trips.Wait(t.Context(), 0)
		}
		for name, is := range at {
			_, err := trips.Ended(is[1])
			require.Equal(t, name == "shard1", err != nil, "%s: %v", name, err)
		}
		_, err := trips.EndedAll(0, 4)
		require.NoError(t, err, "some were answered")
	})
}

// A call that is sent once, and has no answer when ctx ends, says so. A call
// with an answer keeps it.
func TestApart_EndsWithTheCtxOfWhoWaits(t *testing.T) {
	t.Parallel()
	ways := map[string]func(ctx context.Context, s *shards, calls []*script.Call) *FanOut{
		"RunApart": func(ctx context.Context, s *shards, calls []*script.Call) *FanOut {
			return RunApart(ctx, s.rdb, time.Minute, guard.Go, calls)
		},
		"SendApart": func(ctx context.Context, s *shards, calls []*script.Call) *FanOut {
			return New(s.rdb).SendApart(ctx, time.Minute, guard.Go, calls, false, time.Minute)
		},
	}
	for name, send := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inShards(t, 2, func(t *testing.T, s *shards) {
				s.servers["shard1"].Delay(10 * time.Second)
				gone := errors.New("gone")
				ctx, cancel := context.WithCancelCause(t.Context())
				calls, at := s.calls()
				trips := send(ctx, s, calls)
				require.False(t, trips.Wait(ctx, 0))
				require.Equal(t, "shard2", calls[at["shard2"]].Reply)
				// Another goroutine may wait for the rest, with a ctx of its
				// own.
				cancel(gone)
				other, leave := context.WithCancelCause(t.Context())
				began := time.Now()
				time.AfterFunc(time.Second, func() { leave(gone) })
				require.True(t, trips.Wait(other, 0))
				require.Equal(t, time.Second, time.Since(began))
				require.ErrorIs(t, calls[at["shard1"]].Err, gone)
				require.NoError(t, calls[at["shard2"]].Err)
				time.Sleep(time.Minute) // the calls in flight end
				require.ErrorIs(t, calls[at["shard1"]].Err, gone)
			})
		})
	}
}

// Several parties send together. Each goes on when its own servers have
// answered. That includes the party that sends, which is the last.
func TestConvoy_PartyDoesNotWaitForTheServersOfOthers(t *testing.T) {
	t.Parallel()
	ways := map[string]func(ctx context.Context, c *Convoy, calls []*script.Call){
		"SendOrLeave": func(ctx context.Context, c *Convoy, calls []*script.Call) {
			c.SendOrLeave(ctx, time.Minute, guard.Go, calls, false, time.Minute)
		},
		"Send": func(ctx context.Context, c *Convoy, calls []*script.Call) {
			c.Send(ctx, guard.Go, calls, false, time.Minute)
		},
	}
	for name, send := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inShards(t, 2, func(t *testing.T, s *shards) {
				s.servers["shard1"].Delay(10 * time.Second)
				c := New(s.rdb)
				c.Join()
				took := map[string]chan time.Duration{}
				for _, name := range []string{"shard1", "shard2"} {
					took[name] = make(chan time.Duration, 1)
					go func() { // ends with the answer
						began := time.Now()
						send(t.Context(), c, []*script.Call{{Script: echo, Key: s.keys[name], Args: []any{name}}})
						took[name] <- time.Since(began)
					}()
					synctest.Wait()
				}
				require.Zero(t, <-took["shard2"])
				require.Equal(t, 10*time.Second, <-took["shard1"])
			})
		})
	}
}
