package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// These tests must not depend on when callers that wait to read are woken.

func TestAdopt_GetWaitersJoinBeforeTheLeaseIsRequested(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		var sent redistest.Counter
		reply, asks := t.fence(redistest.Named("get")), t.fence(named("acquire"))
		p := quiet(newLoader(t, t.client(&sent, reply.after(), asks.before()), still[string]()))
		calls := []*call[string]{get(t, p, never[string](t))}
		within(t, reply.arrived)
		for range 5 {
			calls = append(calls, get(t, p, never[string](t)))
		}
		synctest.Wait()
		close(reply.pass)
		within(t, asks.arrived)
		synctest.Wait()
		require.EqualValues(t, len(calls), p.Stats().Misses, "as soon as they wait for a load")
		t.proc().write("v") // found instead of the lease
		asks.pass <- struct{}{}
		gets(t, "v", calls...)
		require.Equal(t, 1, sent.Count("get"))
		require.Equal(t, 1, sent.Count("evalsha"), "it answers all of them")
		require.EqualValues(t, len(calls), p.Stats().Misses, "each once")
		requireNoTurns(t, p)
	})
}

func TestAdopt_AdoptedWaiterLeavesOnItsContext(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		reply := t.fence(redistest.Named("get"))
		p := quiet(newLoader(t, t.client(reply.after()), still[string]()))
		source, ended := newSource[string](), make(chan error, 1)
		load := func(ctx context.Context) (string, Life, error) {
			v, life, err := source.load(ctx)
			ended <- err
			return v, life, err
		}
		ctx, leave := context.WithCancelCause(t.Context())
		enter := func(ctx context.Context) *call[string] {
			return start(func() (string, error) { return p.Get(ctx, t.key, load) })
		}
		a := enter(ctx)
		within(t, reply.arrived)
		early, leaveEarly := context.WithCancelCause(t.Context())
		b, c, d := enter(early), enter(ctx), enter(ctx)
		synctest.Wait()
		close(reply.pass)
		within(t, source.began)
		hurry := errors.New("hurry")
		leaveEarly(hurry)
		_, err := b.wait(t)
		require.Equal(t, hurry, err)
		synctest.Wait()
		require.Empty(t, ended, "it goes on for the others")
		leave(errBroken)
		for _, gone := range []*call[string]{a, c, d} {
			_, err := gone.wait(t)
			require.Equal(t, errBroken, err)
		}
		require.Error(t, within(t, ended), "no caller waits any more")
		synctest.Wait()
		requireNoTurns(t, p)
		t.absent()
		gets(t, "v", get(t, p, gives("v")))
	})
}

func TestAdopt_LookupDoesNotWaitForALoad(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		reply := t.fence(redistest.Named("get"))
		p := quiet(newLoader(t, t.client(reply.after()), still[string]()))
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, reply.arrived)
		b, looks := get(t, p, never[string](t)), look(t.Context(), t, p)
		synctest.Wait()
		close(reply.pass)
		within(t, source.began)
		_, err := looks.wait(t)
		require.ErrorIs(t, err, ErrNotFound)
		require.True(t, a.running())
		require.True(t, b.running())
		source.value <- "v"
		gets(t, "v", a, b)
		requireNoTurns(t, p)
	})
}

func TestAdopt_SoftTimeoutOfGetWaitersEnds(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		t.stale("old")
		reply := t.fence(redistest.Named("get"))
		p := quiet(newLoader(t, t.client(reply.after()), typedOptions[string]{LeaseTTL: time.Hour, Timeout: time.Hour, StaleIfError: time.Hour, SoftTimeout: time.Second}))
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, reply.arrived)
		b := get(t, p, never[string](t))
		synctest.Wait()
		close(reply.pass)
		within(t, source.began)
		gets(t, "old", a, b)
		source.value <- "v"
		synctest.Wait()
		t.holds("v")
	})
}

func TestAdopt_GetWaitersDoNotWaitForABackgroundLoad(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		t.stale("old")
		var holds atomic.Bool
		reply := t.fence(func(cmd redis.Cmder) bool { return cmd.Name() == "get" && holds.Load() })
		p := quiet(newLoader(t, t.client(reply.after()), typedOptions[string]{LeaseTTL: time.Hour, Timeout: time.Hour, StaleWhileRevalidate: time.Hour}))
		source := newSource[string]()
		gets(t, "old", get(t, p, source.load))
		within(t, source.began)
		holds.Store(true)
		t.delete()
		a := get(t, p, never[string](t))
		within(t, reply.arrived) // the key is missing
		b := get(t, p, never[string](t))
		synctest.Wait()
		t.proc().write("new")
		close(reply.pass)
		gets(t, "new", b)
		require.True(t, a.running(), "it waits for the load")
		source.value <- "late" // not stored, and too late for a
		gets(t, "new", a)
		requireNoTurns(t, p)
	})
}
