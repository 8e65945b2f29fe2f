package collection

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/loader"
)

func init() { redistest.Register("list loader", loadUntilKilled) }

// childLease bounds the wait for a dead child. A living child does not lose it
// on a busy machine.
const childLease = 3 * time.Second

// loadUntilKilled runs in another process of the fleet, which is killed in Up.
func loadUntilKilled() {
	rdb := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), ReadTimeout: redistest.Patience})
	r, err := NewRecent(rdb, RecentSpec[int, int]{
		Key: os.Getenv("PREFIX") + ":{id}", TTL: time.Hour, Len: 3, LeaseTTL: childLease,
		Up: func(context.Context, int) ([]int, error) {
			fmt.Println("loading")
			select {}
		},
	})
	if err == nil {
		_, err = r.Get(context.Background(), 1)
	}
	fmt.Println(err)
}

func TestRestore_ReplacesAProcessKilledInUp(t *testing.T) {
	t.Parallel()
	server, prefix := redistest.Shared(t), redistest.Key(t)
	child := redistest.Child(t, "list loader", "REDIS="+server.Addr(), "PREFIX="+prefix)
	child.WaitLine("loading")
	s := newSource[[]int]()
	r := recent(t, server.Client(nil), RecentSpec[int, int]{Key: prefix + ":{id}", Up: s.up})
	require.NoError(t, r.Push(t.Context(), 1, 4)) // kept for the load that never ends
	ch := asking(t.Context(), &r.store, 1)
	child.Kill()
	receive(t, s.began).returns([]int{4, 3, 2, 1}, nil) // the source has it
	require.Equal(t, answer[[]int]{[]int{4, 3, 2}, nil}, receive(t, ch))
	has(t, &r.store, 1, []int{4, 3, 2})
}

func TestRestore_RunsOnceInAFleet(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s, prefix := newSource[[]int](), redistest.Key(t)
		var callers []<-chan answer[[]int]
		for range 4 {
			r := recent(t, again(t, rdb), RecentSpec[int, int]{Key: prefix + ":{id}", Up: s.up})
			for range 25 {
				callers = append(callers, asking(t.Context(), &r.store, 1))
			}
		}
		receive(t, s.began).returns([]int{9, 8, 7, 6}, nil)
		for _, ch := range callers {
			require.Equal(t, answer[[]int]{[]int{9, 8, 7}, nil}, receive(t, ch))
		}
		s.idle(t)
		k := prefix + ":1"
		require.EqualValues(t, 4, rdb.LLen(t.Context(), k).Val(), "three elements and the head")
		left := rdb.PTTL(t.Context(), k).Val()
		require.True(t, left > someTTL-patience && left <= someTTL, "the TTL is %v", left)
	})
}

func TestRestore_RemembersAnEmptyList(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		calls := 0
		r := recent(t, rdb, RecentSpec[int, int]{Up: func(context.Context, int) ([]int, error) { calls++; return nil, nil }})
		for range 5 {
			has(t, &r.store, 1, nil)
		}
		require.NoError(t, r.Push(t.Context(), 1, 1))
		require.NoError(t, r.Remove(t.Context(), 1, 1))
		has(t, &r.store, 1, nil)
		require.Equal(t, 1, calls)
	})
}

func TestRestore_PutsPushesBeforeLoadedElements(t *testing.T) {
	t.Parallel()
	for _, unique := range []bool{false, true} {
		redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
			s := newSource[[]int]()
			r := recent(t, rdb, RecentSpec[int, int]{Up: s.up, Len: 6, Unique: unique})
			require.NoError(t, r.Push(t.Context(), 1, 1), "which the source has")
			require.Zero(t, rdb.Exists(t.Context(), name(t, &r.store, 1)).Val())
			ch := asking(t.Context(), &r.store, 1)
			load := receive(t, s.began)
			require.NoError(t, r.Push(t.Context(), 1, 4))
			require.NoError(t, r.Push(t.Context(), 1, 5, 6))
			require.LessOrEqual(t, rdb.PTTL(t.Context(), name(t, &r.store, 1)).Val(), someLease, "the lease lasts no longer by it")
			load.returns([]int{5, 4, 3, 2, 1}, nil) // it has read two of them
			want := []int{6, 5, 4, 5, 4, 3}
			if unique {
				want = []int{6, 5, 4, 3, 2, 1}
			}
			require.Equal(t, answer[[]int]{want, nil}, receive(t, ch))
			has(t, &r.store, 1, want)
			require.EqualValues(t, 7, rdb.LLen(t.Context(), name(t, &r.store, 1)).Val(), "six elements and the head")
			s.idle(t)
		})
	}
}

func TestRestore_DoesNotUndoConcurrentWrites(t *testing.T) {
	t.Parallel()
	for what, happens := range map[string]func(ctx context.Context, rdb *redis.Client, r *Recent[int, int], k string) error{
		"Delete": func(ctx context.Context, _ *redis.Client, r *Recent[int, int], _ string) error {
			return r.Delete(ctx, 1)
		},
		"Remove": func(ctx context.Context, _ *redis.Client, r *Recent[int, int], _ string) error {
			return r.Remove(ctx, 1, 2)
		},
		"DEL by anyone": func(ctx context.Context, c *redis.Client, _ *Recent[int, int], k string) error {
			return c.Del(ctx, k).Err()
		},
		"a push after a DEL": func(ctx context.Context, c *redis.Client, r *Recent[int, int], k string) error {
			return errors.Join(c.Del(ctx, k).Err(), r.Push(ctx, 1, 9))
		},
		"SET by anyone": func(ctx context.Context, c *redis.Client, _ *Recent[int, int], k string) error {
			return c.Set(ctx, k, "x", 0).Err()
		},
		"LPUSH by anyone": func(ctx context.Context, c *redis.Client, _ *Recent[int, int], k string) error {
			return c.LPush(ctx, k, "x").Err()
		},
		"the end of the lease": func(ctx context.Context, c *redis.Client, _ *Recent[int, int], k string) error {
			return c.PExpire(ctx, k, 0).Err()
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				s, prefix := newSource[[]int](), redistest.Key(t)
				r := recent(t, rdb, RecentSpec[int, int]{Key: prefix + ":{id}", Up: s.up})
				other := recent(t, again(t, rdb), RecentSpec[int, int]{Key: prefix + ":{id}", Up: s.up})
				before := asking(t.Context(), &r.store, 1)
				load := receive(t, s.began)
				require.NoError(t, happens(t.Context(), rdb, r, prefix+":1"))
				after := asking(t.Context(), &other.store, 1)
				second := receive(t, s.began) // it does not wait for the first load
				load.returns([]int{3, 2, 1}, nil)
				second.returns([]int{3, 1}, nil)
				require.Equal(t, answer[[]int]{[]int{3, 1}, nil}, receive(t, after))
				require.Equal(t, answer[[]int]{[]int{3, 1}, nil}, receive(t, before), "who came before may have either")
				has(t, &r.store, 1, []int{3, 1})
				s.idle(t)
			})
		})
	}
}

// A caller must not get the result of a flight of its own process that began
// before a deletion.
func TestRestore_ResultIsNotSharedAcrossADeletion(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource[[]int]()
		r := recent(t, rdb, RecentSpec[int, int]{Up: s.up})
		before := asking(t.Context(), &r.store, 1)
		load := receive(t, s.began)
		require.NoError(t, rdb.Del(t.Context(), name(t, &r.store, 1)).Err()) // this process does not know of it
		after := asking(t.Context(), &r.store, 1)                            // it joins the flight, or comes after it has ended
		load.returns([]int{1}, nil)
		receive(t, s.began).returns([]int{2}, nil)
		require.Equal(t, answer[[]int]{[]int{2}, nil}, receive(t, after))
		require.Equal(t, answer[[]int]{[]int{2}, nil}, receive(t, before))
		s.idle(t)
	})
}

func TestRestore_SlowerThanTheLeaseIsStoredOnce(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		var calls atomic.Int64
		var fleet []*Recent[int, int]
		for range 3 {
			fleet = append(fleet, recent(t, again(t, rdb), RecentSpec[int, int]{
				Key: "slow:{id}", LeaseTTL: time.Second,
				Up: func(context.Context, int) ([]int, error) {
					calls.Add(1)
					time.Sleep(20 * time.Second)
					return []int{1}, nil
				},
			}))
		}
		began := time.Now()
		var callers sync.WaitGroup
		for _, r := range fleet {
			callers.Go(func() { has(t, &r.store, 1, []int{1}) })
		}
		callers.Wait()
		require.EqualValues(t, 1, calls.Load())
		require.Equal(t, 20*time.Second, time.Since(began), "those who wait are woken")
		require.Equal(t, someTTL, rdb.PTTL(t.Context(), "slow:1").Val().Round(time.Second))
	})
}

func TestRestore_FailureReleasesTheLease(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		var up func() ([]int, error)
		r := recent(t, rdb, RecentSpec[int, int]{Up: func(context.Context, int) ([]int, error) { return up() }, LeaseTTL: time.Hour})
		for _, fail := range []struct {
			up func() ([]int, error)
			is error
		}{
			{func() ([]int, error) { return []int{1}, io.ErrUnexpectedEOF }, io.ErrUnexpectedEOF},
			{func() ([]int, error) { return nil, cachex.ErrNotFound }, cachex.ErrNotFound},
			{func() ([]int, error) { panic(io.ErrNoProgress) }, io.ErrNoProgress},
			{func() ([]int, error) { runtime.Goexit(); return nil, nil }, loader.ErrGoexit},
		} {
			up = fail.up
			v, err := r.Get(t.Context(), 1)
			require.Nil(t, v)
			require.ErrorIs(t, err, fail.is)
			require.ErrorContains(t, err, "cachex: get "+name(t, &r.store, 1)+": ")
			// After a panic the release may still be in flight.
			require.Eventually(t, func() bool { return rdb.Exists(t.Context(), name(t, &r.store, 1)).Val() == 0 }, patience, time.Millisecond)
		}
		up = func() ([]int, error) { return []int{1}, nil }
		has(t, &r.store, 1, []int{1})
	})
}

func TestRestore_ReportsAnUpThatReadsItsOwnList(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		var r *Recent[int, int]
		r = recent(t, rdb, RecentSpec[int, int]{Up: func(ctx context.Context, id int) ([]int, error) { return r.Get(ctx, id) }})
		_, err := r.Get(t.Context(), 1)
		require.ErrorIs(t, err, loader.ErrReentrant)
	})
}

func TestRestore_EndsWhenTheLastCallerLeaves(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource[[]int]()
		r := recent(t, rdb, RecentSpec[int, int]{Up: s.up, LeaseTTL: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		ch := asking(ctx, &r.store, 1)
		load := receive(t, s.began)
		cancel()
		require.ErrorIs(t, receive(t, ch).err, context.Canceled)
		receive(t, load.ctx.Done())
		load.returns([]int{1}, nil) // too late
		require.Eventually(t, func() bool { return rdb.Exists(t.Context(), name(t, &r.store, 1)).Val() == 0 }, patience, time.Millisecond)
	})
}

func TestRestore_ReleasesALeaseWhoseCallersLeft(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		warm := recent(t, rdb, RecentSpec[int, int]{Up: func(context.Context, int) ([]int, error) { return nil, nil }})
		has(t, &warm.store, 1, nil) // the server knows the scripts
		ctx, cancel := context.WithCancel(t.Context())
		client, left := again(t, rdb), make(chan struct{})
		client.AddHook(&redistest.Gate{After: func(_ context.Context, cmd redis.Cmder) {
			if is(cmd, script.List.Acquire) {
				cancel()
				<-left
			}
		}})
		s := newSource[[]int]()
		r := recent(t, client, RecentSpec[int, int]{Up: s.up, LeaseTTL: time.Hour})
		ch := asking(ctx, &r.store, 1)
		require.ErrorIs(t, receive(t, ch).err, context.Canceled)
		require.EqualValues(t, 1, rdb.Exists(t.Context(), name(t, &r.store, 1)).Val(), "the lease")
		close(left)
		require.Eventually(t, func() bool { return rdb.Exists(t.Context(), name(t, &r.store, 1)).Val() == 0 }, patience, time.Millisecond)
		s.idle(t)
	})
}

func TestUpTimeout_EndsALoadAndTheWaitForOne(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		spec := RecentSpec[int, int]{Key: "hung:{id}", UpTimeout: 5 * time.Second, Up: func(ctx context.Context, _ int) ([]int, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		r, other := recent(t, rdb, spec), recent(t, again(t, rdb), spec)
		began := time.Now()
		a, b := asking(t.Context(), &r.store, 1), asking(t.Context(), &other.store, 1)
		synctest.Wait()
		require.ErrorIs(t, (<-a).err, context.DeadlineExceeded)
		require.ErrorIs(t, (<-b).err, context.DeadlineExceeded)
		require.Equal(t, 5*time.Second, time.Since(began))
	})
}

// The lease has lost its TTL, or has one that is too long, and its holder is
// dead.
func TestRestore_ReplacesALeaseWithoutATTL(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		r := recent(t, rdb, RecentSpec[int, int]{Key: "r:{id}", Up: func(context.Context, int) ([]int, error) { return []int{1}, nil }})
		for _, ttl := range []time.Duration{0, time.Hour} {
			require.NoError(t, rdb.RPush(t.Context(), "r:1", "\xc1H\x01Labcdefgh", "5").Err())
			if ttl > 0 {
				require.NoError(t, rdb.PExpire(t.Context(), "r:1", ttl).Err())
			}
			began := time.Now()
			has(t, &r.store, 1, []int{1})
			require.Less(t, time.Since(began), someLease+400*time.Millisecond) // it is polled
			require.NoError(t, r.Delete(t.Context(), 1))
		}
	})
}
