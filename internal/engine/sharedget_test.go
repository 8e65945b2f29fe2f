package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// look starts a Lookup of the lab's key; a missing key is an error.
func look(ctx context.Context, t *lab, p *Loader[string]) *call[string] {
	return start(func() (string, error) {
		v, there, err := p.Lookup(ctx, t.key)
		if err == nil && !there {
			err = ErrNotFound
		}
		return v, err
	})
}

func TestGet_HitIsOneGET(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		t.proc().write("v")
		var sent redistest.Counter
		p := newLoader(t, t.client(&sent), typedOptions[string]{})
		gets(t, "v", get(t, p, never[string](t)))
		v, there, err := p.Lookup(t.Context(), t.key)
		require.NoError(t, err)
		require.True(t, there)
		require.Equal(t, "v", v)
		require.Equal(t, 2, sent.Count("get"))
		require.Equal(t, 2, sent.Count())
		require.Equal(t, Stats{Hits: 2}, p.Stats())
	})
}

func TestGet_MissIsAGETALeaseAndAStore(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		var sent redistest.Counter
		p := newLoader(t, t.client(&sent), still[string]())
		gets(t, "v", get(t, p, gives("v")))
		require.Equal(t, 1, sent.Count("get"))
		require.Equal(t, 2, sent.Count("evalsha"))
		require.Equal(t, 3, sent.Count())
		stats := p.Stats()
		require.Positive(t, stats.LoadTime)
		stats.LoadTime = 0
		require.Equal(t, Stats{Misses: 1, Loads: 1}, stats)
	})
}

func TestSharedGet_CallersDuringAReadShareTheNext(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		t.proc().write("old")
		var sent redistest.Counter
		reply := t.fence(redistest.Named("get"))
		p := quiet(newLoader(t, t.client(&sent, reply.after()), still[string]()))
		a := get(t, p, never[string](t))
		within(t, reply.arrived)
		t.proc().write("new")
		var late []*call[string]
		for range 5 {
			late = append(late, get(t, p, never[string](t)))
		}
		looked := look(t.Context(), t, p)
		synctest.Wait()
		require.Equal(t, 1, sent.Count("get"))
		close(reply.pass)
		gets(t, "old", a)
		gets(t, "new", append(late, looked)...)
		require.Equal(t, 2, sent.Count("get"))
		require.EqualValues(t, 7, p.Stats().Hits)
	})
}

func TestSharedGet_KeysDoNotDelayEachOther(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		reply := t.fence(func(cmd redis.Cmder) bool { return cmd.Name() == "get" && cmd.Args()[1] == t.key })
		p := quiet(newLoader(t, t.client(reply.after()), still[string]()))
		a := get(t, p, gives("v"))
		within(t, reply.arrived)
		for i := range 200 { // more than there are shards
			v, err := p.Get(t.Context(), t.key+string(rune('a'+i)), gives("w"))
			require.NoError(t, err)
			require.Equal(t, "w", v)
		}
		close(reply.pass)
		gets(t, "v", a)
	})
}

func TestSharedGet_WaitersJoinTheLoadOfAMiss(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		var sent redistest.Counter
		reply := t.fence(redistest.Named("get"))
		p := quiet(newLoader(t, t.client(&sent, reply.after()), still[string]()))
		source := newSource[string]()
		calls := []*call[string]{get(t, p, source.load)}
		within(t, reply.arrived)
		for range 5 {
			calls = append(calls, get(t, p, never[string](t)))
		}
		synctest.Wait()
		close(reply.pass)
		within(t, source.began)
		synctest.Wait()
		source.value <- "v"
		gets(t, "v", calls...)
		require.Equal(t, 1, sent.Count("get"), "they had nothing to read any more")
		requireNoTurns(t, p)
		require.EqualValues(t, 6, p.Stats().Misses)
	})
}

func TestSharedGet_WaitingCallerLeavesOnItsContext(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]bool{"without later callers": false, "with a later caller": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaveWhileReading(t, again)
		})
	}
}

func leaveWhileReading(t *testing.T, again bool) {
	bubbles(t, func(t *lab) {
		t.proc().write("v")
		reply := t.fence(redistest.Named("get"))
		p := quiet(newLoader(t, t.client(reply.after()), still[string]()))
		a := get(t, p, never[string](t))
		within(t, reply.arrived)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errBroken)
		defer cancel()
		var hasty []*call[string]
		for range 3 {
			hasty = append(hasty, start(func() (string, error) { return p.Get(ctx, t.key, never[string](t)) }))
		}
		for _, c := range append(hasty, look(ctx, t, p)) {
			_, err := c.wait(t)
			require.Equal(t, errBroken, err)
		}
		if again {
			b := get(t, p, never[string](t)) // their leftovers disturb no caller
			synctest.Wait()
			close(reply.pass)
			gets(t, "v", a, b)
		} else {
			close(reply.pass)
			gets(t, "v", a)
		}
		requireNoTurns(t, p)
		gets(t, "v", get(t, p, never[string](t)))
	})
}

func TestSharedGet_SharingCallerLeavesOnItsContext(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		t.proc().write("v")
		reply := t.fence(redistest.Named("get"))
		p := quiet(newLoader(t, t.client(reply.after()), still[string]()))
		a := get(t, p, never[string](t))
		within(t, reply.arrived)
		ctx, cancel := context.WithCancelCause(t.Context())
		b := get(t, p, never[string](t))
		c := start(func() (string, error) { return p.Get(ctx, t.key, never[string](t)) })
		d := start(func() (string, error) { return p.Get(ctx, t.key, never[string](t)) })
		synctest.Wait()
		reply.pass <- struct{}{}
		gets(t, "v", a)
		within(t, reply.arrived) // one of the three has sent the next read
		cancel(errBroken)
		synctest.Wait()
		require.True(t, b.running())
		close(reply.pass)
		gets(t, "v", b)
		left := 0
		for _, c := range []*call[string]{c, d} {
			if v, err := c.wait(t); err != nil {
				require.Equal(t, errBroken, err)
				left++
			} else {
				require.Equal(t, "v", v) // the sender
			}
		}
		require.Positive(t, left)
		requireNoTurns(t, p)
	})
}

// The end of one caller's read must not end the reads of callers that share it.
func TestSharedGet_FailedReadIsSentAgainBySharers(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		t.proc().write("v")
		var faults redistest.Faults
		faults.Add(redistest.Fault{Match: redistest.Named("get"), Skip: 1})
		reply := t.fence(redistest.Named("get"))
		p := quiet(newLoader(t, t.client(reply.after(), &faults), still[string]()))
		a := look(t.Context(), t, p)
		within(t, reply.arrived)
		shared := []*call[string]{look(t.Context(), t, p), look(t.Context(), t, p), look(t.Context(), t, p)}
		synctest.Wait()
		close(reply.pass)
		gets(t, "v", a)
		failed := 0
		for _, c := range shared {
			if v, err := c.wait(t); err != nil {
				failed++
			} else {
				require.Equal(t, "v", v)
			}
		}
		require.Equal(t, 1, failed, "only the sender")
		requireNoTurns(t, p)
	})
}

func TestFind_NeitherLoadsNorWaits(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		p := newLoader(t, t.client(), typedOptions[string]{})
		absent := func() {
			t.Helper()
			v, there, err := p.Lookup(t.Context(), t.key)
			require.NoError(t, err)
			require.False(t, there)
			require.Empty(t, v)
		}
		absent()
		q := t.proc()
		lease := q.acquire(Granted)
		absent()
		q.store(lease.Token, "v", Stored)
		v, there, err := p.Lookup(t.Context(), t.key)
		require.NoError(t, err)
		require.True(t, there)
		require.Equal(t, "v", v)
		q.expire()
		absent()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errBroken)
		_, _, err = p.Lookup(ctx, t.key)
		require.Equal(t, errBroken, err)
		require.Equal(t, Stats{Hits: 1, Misses: 3}, p.Stats())
	})
}

func TestGet_LoadsAnOverdueValueThatLostItsTTL(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), typedOptions[string]{}))
		require.NoError(t, t.leases().Write(t.Context(), t.key, []byte("old"), Life{Fresh: time.Second, Keep: 2 * time.Second}))
		require.NoError(t, t.rdb.Persist(t.Context(), t.key).Err())
		gets(t, "old", get(t, p, never[string](t)))
		time.Sleep(time.Minute)
		gets(t, "new", get(t, p, gives("new")))
		gets(t, "new", get(t, p, never[string](t)))
		t.holds("new")
	})
}

// The server's clock decides whether a value is fresh. A client with a wrong
// clock must not load in vain, nor alone.
func TestGet_WrongClockStillSharesTheCache(t *testing.T) {
	t.Parallel()
	// of the server
	for name, off := range map[string]time.Duration{"fast": -time.Hour, "slow": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.StartEmbedded(t)
			server.SetTime(time.Now().Add(off))
			work(t, server.Client(nil), func(t *lab) {
				p, q := newLoader(t, t.client(), typedOptions[string]{}), newLoader(t, t.client(), typedOptions[string]{})
				short := Life{Fresh: time.Minute, Keep: time.Minute}
				v, err := p.Get(t.Context(), t.key, func(context.Context) (string, Life, error) { return "v", short, nil })
				require.NoError(t, err)
				require.Equal(t, "v", v)
				gets(t, "v", get(t, q, never[string](t)), get(t, q, never[string](t)))
			})
		})
	}
}

func TestGet_EndedContextSendsNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		var sent redistest.Counter
		p := newLoader(t, t.client(&sent), typedOptions[string]{})
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errBroken)
		_, err := p.Get(ctx, t.key, never[string](t))
		require.Equal(t, errBroken, err)
		require.Zero(t, sent.Count())
	})
}

// Many callers, keys and ends of contexts, for the race detector and for the
// final state of the shards.
func TestSharedGet_LeavesNothingBehind(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		p := newLoader(t, t.client(), typedOptions[string]{})
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for j := range 50 {
					key := t.key + string(rune('a'+(i+j)%3))
					ctx, cancel := context.WithCancel(t.Context())
					if j%5 == 0 {
						go cancel()
					}
					if v, err := p.Get(ctx, key, gives("v")); err == nil && v != "v" || err != nil && ctx.Err() == nil {
						t.Errorf("got %q, %v", v, err)
					}
					if j%10 == 0 {
						if err := t.rdb.Del(t.Context(), key).Err(); err != nil {
							t.Error(err)
						}
						p.Forget(key)
					}
					cancel()
				}
			})
		}
		wg.Wait()
		require.NoError(t, p.Close(t.Context()))
		requireNoTurns(t, p)
	})
}

// requireNoTurns asserts that no read is left.
func requireNoTurns[V any](t testing.TB, p *Loader[V]) {
	t.Helper()
	for i := range p.engine.gets.shards {
		shard := &p.engine.gets.shards[i]
		shard.mu.Lock()
		require.Empty(t, shard.m)
		shard.mu.Unlock()
	}
}

// The outcome of a client's hook in one caller's goroutine is not the reply for
// the others.
func TestSharedGet_ClientPanicIsItsCallersOwn(t *testing.T) {
	t.Parallel()
	server := redistest.StartEmbedded(t)
	plain, client := server.Client(nil), server.Client(nil)
	leases, err := NewLeases(plain, time.Second)
	require.NoError(t, err)
	life := Life{Fresh: time.Hour, Keep: time.Hour}
	require.NoError(t, leases.Write(t.Context(), "k", []byte("v"), life))
	p, err := newTyped(client, typedOptions[string]{})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close(context.Background())) }()

	first, second, pass := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var n atomic.Int64
	client.AddHook(&redistest.Gate{Before: func(_ context.Context, cmd redis.Cmder) {
		switch n.Add(1) {
		case 1:
			close(first)
			<-pass
		case 2: // sent by one of the two that waited for the first
			close(second)
			panic("hook")
		}
	}})
	var wg sync.WaitGroup
	var read atomic.Int64
	look := func() {
		defer func() { _ = recover() }()
		if v, ok, err := p.Lookup(context.Background(), "k"); err == nil && ok && v == "v" {
			read.Add(1)
		}
	}
	wg.Go(look)
	<-first
	wg.Go(look)
	wg.Go(look)
	require.Eventually(t, func() bool {
		shard := p.engine.gets.shard("k")
		shard.mu.Lock()
		defer shard.mu.Unlock()
		g := shard.m["k"]
		return g != nil && g.next != nil && g.next.waiting == 2
	}, patience, time.Millisecond)
	close(pass)
	<-second
	wg.Wait()
	require.EqualValues(t, 2, read.Load(), "all but the one whose hook panicked")
	require.Zero(t, p.Stats().DecodeFailures)
	requireNoTurns(t, p)
}
