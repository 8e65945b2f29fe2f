package engine

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// The tests of this file play, with whole Loaders, the calls whose load or read
// a deletion overtakes. See interleaving_test.go for the names.

// still keeps a Loader from sending anything of its own accord.
func still[V any]() typedOptions[V] {
	return typedOptions[V]{LeaseTTL: time.Hour, Timeout: 24 * time.Hour}
}

// M19, where the near cache is a caller that would share a read: the read of a
// lone caller, and the read of callers that waited together.
func TestDeletion_LaterCallerDoesNotShareAnEarlierGet(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		reply := t.fence(redistest.Named("get"))
		p := quiet(newLoader(t, t.client(reply.after()), still[string]()))
		t.proc().write("oldest")
		a := get(t, p, never[string](t))
		within(t, reply.arrived) // the oldest value is on its way to A
		t.proc().write("old")
		b, c := get(t, p, never[string](t)), get(t, p, never[string](t))
		synctest.Wait()
		reply.pass <- struct{}{}
		gets(t, "oldest", a)
		within(t, reply.arrived) // the old value is on its way to B and C
		t.delete()
		d := get(t, p, gives("new"))
		synctest.Wait()
		close(reply.pass)
		gets(t, "old", b, c) // they came before the deletion
		gets(t, "new", d)
		t.holds("new")
	})
}

// M20, and M1 to M3 in one process.
func TestDeletion_LocalEarlierLoadDoesNotServeLaterCallers(t *testing.T) {
	t.Parallel()
	for name, oldFirst := range map[string]bool{"the old load ends first": true, "the new load ends first": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubbles(t, func(t *lab) {
				p := quiet(newLoader(t, t.client(), still[string]()))
				older, newer := newSource[string](), newSource[string]()
				a := get(t, p, older.load)
				within(t, older.began)
				t.delete()
				p.Forget(t.key)
				b := get(t, p, newer.load)
				within(t, newer.began) // it did not join
				endOld := func() {
					older.value <- "old"
					gets(t, "old", a)
				}
				endNew := func() {
					newer.value <- "new"
					gets(t, "new", b)
				}
				if oldFirst {
					endOld()
					synctest.Wait()
					require.True(t, b.running())
					h, _ := t.entry()
					require.EqualValues(t, 'L', h.State, "what A loaded is stored")
					endNew()
				} else {
					endNew()
					endOld()
				}
				t.holds("new")
				gets(t, "new", get(t, p, never[string](t)))
				stats := p.Stats()
				require.EqualValues(t, 1, stats.Fenced)
				require.EqualValues(t, 2, stats.Loads)
			})
		})
	}
}

// M21.
func TestDeletion_RemoteJoinedLoadDoesNotServeLaterCallers(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), still[string]()))
		q := quiet(newLoader(t, t.client(), still[string]()))
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		t.delete() // P does not hear of it
		b, c := get(t, p, source.load), get(t, p, source.load)
		synctest.Wait()
		source.idle(t) // they have joined
		source.value <- "old"
		gets(t, "old", a) // callers from before the deletion may have it
		within(t, source.began)
		require.True(t, b.running() && c.running())
		d := get(t, q, never[string](t)) // of another process, waits for the lease
		synctest.Wait()
		source.value <- "new"
		gets(t, "new", b, c, d)
		t.holds("new")
		require.EqualValues(t, 2, p.Stats().Loads, "B and C have loaded together")
		require.EqualValues(t, 1, p.Stats().Fenced)
		source.idle(t)
	})
}

// M21, where a heartbeat tells the callers apart.
func TestHeartbeat_EntitlesCallersBeforeIt(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), still[string]()))
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, p, source.load)
		time.Sleep(time.Hour/3 + time.Second) // a heartbeat
		t.delete()
		c := get(t, p, source.load)
		synctest.Wait()
		source.value <- "old"
		gets(t, "old", a, b)
		within(t, source.began)
		require.True(t, c.running())
		source.value <- "new"
		gets(t, "new", c)
	})
}

// M21, where a heartbeat finds the deletion.
func TestHeartbeat_LoadIsNotJoinedOnceItsLeaseIsLost(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), still[string]()))
		older, newer := newSource[string](), newSource[string]()
		a := get(t, p, older.load)
		within(t, older.began)
		t.delete()
		late := get(t, p, older.load)
		time.Sleep(time.Hour/3 + time.Second)
		b := get(t, p, newer.load)
		within(t, newer.began)
		newer.value <- "new"
		gets(t, "new", b)
		older.value <- "old"
		gets(t, "old", a)
		gets(t, "new", late) // from Redis
		older.idle(t)
		t.holds("new")
	})
}

// M2 and M3, with waiters: B waits for A's lease, which C deletes.
func TestWaiter_TakesOverAfterADeletion(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), still[string]()))
		q := quiet(newLoader(t, t.client(), still[string]()))
		older, newer := newSource[string](), newSource[string]()
		a := get(t, p, older.load)
		within(t, older.began)
		b := get(t, q, newer.load)
		time.Sleep(time.Minute) // it polls
		newer.idle(t)
		t.delete()
		within(t, newer.began)
		older.value <- "old"
		gets(t, "old", a)
		require.True(t, b.running())
		newer.value <- "new"
		gets(t, "new", b)
		t.holds("new")
		require.EqualValues(t, 1, q.Stats().Waits)
	})
}

// If the reply of a Store is in flight during a deletion, the Store has proven
// the value only to waiters who had joined before it was sent.
func TestDeletion_CallerDuringTheStoreIsNotServedByIt(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		stored := t.fence(func(cmd redis.Cmder) bool { return scriptName(cmd) == "store" })
		p := quiet(newLoader(t, t.client(stored.after()), still[string]()))
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, p, source.load)
		synctest.Wait()
		source.value <- "old"
		within(t, stored.arrived)
		t.holds("old")
		t.delete() // after the value was stored, before its reply arrives
		c := get(t, p, source.load)
		synctest.Wait()
		close(stored.pass)
		gets(t, "old", a, b)
		within(t, source.began)
		require.True(t, c.running())
		source.value <- "new"
		gets(t, "new", c)
		t.holds("new")
	})
}

// The timeout of a load does not answer callers that came after a deletion: the
// load that they wait for has yet to begin.
func TestDeletion_EarlierTimeoutDoesNotServeLaterCallers(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), typedOptions[string]{LeaseTTL: time.Hour, Timeout: time.Minute}))
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		time.Sleep(time.Minute - time.Second)
		t.delete()
		b := get(t, p, source.load)
		_, err := a.wait(t)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		within(t, source.began)
		time.Sleep(time.Minute - time.Second)
		source.value <- "new"
		gets(t, "new", b)
		t.holds("new")
	})
}

// The same for a value that another process has stored, whose reply is in
// flight.
func TestDeletion_CallerDuringAcquireIsNotServedByAFoundValue(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]func(int, redis.Cmder) bool{
		"of a poll":    func(gets int, cmd redis.Cmder) bool { return cmd.Name() == "get" && gets == 2 },
		"of the lease": func(_ int, cmd redis.Cmder) bool { return scriptName(cmd) == "acquire" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubbles(t, func(t *lab) {
				holder := t.proc()
				var asked redistest.Counter
				arrives := t.fence(func(cmd redis.Cmder) bool { return reply(asked.Count("get"), cmd) })
				var once sync.Once
				store := &redistest.Gate{Before: func(_ context.Context, cmd redis.Cmder) {
					if reply(asked.Count("get"), cmd) {
						once.Do(func() { holder.write("old") })
					}
				}}
				p := quiet(newLoader(t, t.client(&asked, arrives.after(), store), still[string]()))
				source := newSource[string]()
				holder.acquire(Granted)
				a := get(t, p, source.load)
				within(t, arrives.arrived)
				t.delete()
				b := get(t, p, source.load)
				synctest.Wait()
				close(arrives.pass)
				gets(t, "old", a)
				within(t, source.began)
				source.value <- "new"
				gets(t, "new", b)
				t.holds("new")
			})
		})
	}
}

// A failed load answers only callers that came before the deletion.
func TestDeletion_EarlierErrorDoesNotServeLaterCallers(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), still[string]()))
		fails := newSource[error]()
		load := func(ctx context.Context) (string, Life, error) {
			err, _, _ := fails.load(ctx)
			return "new", hour, err
		}
		a := get(t, p, load)
		within(t, fails.began)
		t.delete()
		b := get(t, p, load)
		synctest.Wait()
		fails.value <- ErrNotFound
		_, err := a.wait(t)
		require.ErrorIs(t, err, ErrNotFound)
		within(t, fails.began)
		fails.value <- nil
		gets(t, "new", b)
	})
}
