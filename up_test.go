package cachex

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/loader"
)

// hot hangs the other keys of a batch for ever. We have no batches yet: here the
// other keys are those that are being loaded at the same time.
func TestUp_PanicBlocksNoOtherKey(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource(t)
		c := newCache(t, rdb, Spec[int, string]{Up: s.up, LeaseTTL: time.Minute})
		answers, loads := map[int]<-chan answer{}, map[int]*loading{}
		for id := range 3 {
			answers[id] = asking(t.Context(), c, id)
		}
		for range 3 {
			l := s.next(t)
			loads[l.id] = l
		}
		loads[1].does(func() (string, error) { panic("boom") })
		_, ok := errors.AsType[*loader.PanicError](receive(t, answers[1]).err)
		require.True(t, ok)
		for id := range 3 {
			if id != 1 {
				loads[id].returns("up", nil)
				gets(t, "up", answers[id])
			}
		}
		next := asking(t.Context(), c, 1)
		s.next(t).returns("again", nil)
		gets(t, "again", next)
	})
}

// In rueidisaside it is blocked everywhere until the TTL is over, in groupcache
// for ever.
func TestUp_PanicReleasesTheLease(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource(t)
		// The lease would hold for longer than we have patience.
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", LeaseTTL: 2 * patience, Up: s.up}
		c, other := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		here := asking(t.Context(), c, 1)
		load := s.next(t)
		elsewhere := asking(t.Context(), other, 1)
		waiting(t, other, 1)
		load.does(func() (string, error) { panic("boom") })
		require.ErrorContains(t, receive(t, here).err, "load panicked: boom")
		s.next(t).returns("up", nil) // by the other cache
		gets(t, "up", elsewhere)
		gets(t, "up", asking(t.Context(), c, 1))
	})
}

// sturdyc and jetcache lose the error of a batch for some who wait for it: they
// get what there is, and no error. Here it is one key, and all who joined.
func TestUp_ErrorReachesEveryWaiter(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		const callers = 20
		s := newSource(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", LeaseTTL: time.Minute, Up: s.up}
		c, other := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		var answers []<-chan answer
		for range callers {
			answers = append(answers, asking(t.Context(), c, 1))
		}
		load := s.next(t)
		joined(t, c, callers)
		elsewhere := asking(t.Context(), other, 1)
		waiting(t, other, 1)
		load.returns("half", io.ErrUnexpectedEOF)
		for _, ch := range answers {
			got := receive(t, ch)
			require.ErrorIs(t, got.err, io.ErrUnexpectedEOF)
			require.Empty(t, got.v, "there is no value beside an error")
		}
		// Another process does not inherit the error: it asks for itself.
		s.next(t).returns("up", nil)
		gets(t, "up", elsewhere)
	})
}

// In sturdyc an error after "not found" stores a zero value as if it were one.
func TestUp_ErrorAfterErrNotFoundStoresNothing(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource(t)
		c := newCache(t, rdb, Spec[int, string]{Up: s.up, LeaseTTL: longLease})
		for _, want := range []error{ErrNotFound, io.ErrUnexpectedEOF, ErrNotFound, context.Canceled, io.ErrUnexpectedEOF} {
			got := asking(t.Context(), c, 1)
			s.next(t).returns("", want)
			require.ErrorIs(t, receive(t, got).err, want)
			require.Zero(t, rdb.Exists(t.Context(), c.Key(1)).Val())
			_, ok, err := c.Lookup(t.Context(), 1)
			require.NoError(t, err)
			require.False(t, ok)
		}
	})
}

// In rockscache it is never stored while another process wants it too.
func TestUp_LoadSlowerThanItsLeaseIsStored(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		beats := make(chan bool, 1000)
		slow := again(t, rdb)
		slow.AddHook(&redistest.Gate{After: func(_ context.Context, cmd redis.Cmder) {
			if runs(cmd, script.Extend) && cmd.Err() == nil {
				beats <- true
			}
		}})
		s := newSource(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", LeaseTTL: 6 * time.Second, Up: s.up}
		c, other := newCache(t, slow, spec), newCache(t, rdb, spec)
		// keeps reports whether the first of two processes kept its lease, which it renews
		// after each third. One that the machine stops for longer loses it, and then the
		// other one loads too.
		keeps := func(id int) bool {
			first := asking(t.Context(), c, id)
			load := s.next(t)
			elsewhere := asking(t.Context(), other, id)
			for n := 0; n < 4; n++ {
				select {
				case <-beats:
				case second := <-s.calls:
					second.returns("up", nil)
					load.returns("up", nil)
					gets(t, "up", first)
					gets(t, "up", elsewhere)
					return false
				case <-time.After(patience):
					require.FailNow(t, "the lease is not renewed")
				}
			}
			load.returns("up", nil)
			gets(t, "up", first)
			select {
			case got := <-elsewhere:
				require.Equal(t, answer{v: "up"}, got)
				return c.Stats().Fenced == 0
			case second := <-s.calls: // the lease was lost after its last renewal
				second.returns("up", nil)
				gets(t, "up", elsewhere)
				return false
			case <-time.After(patience):
				require.FailNow(t, "the other process has no answer")
				return false
			}
		}
		until := time.Now().Add(patience)
		for id := 1; !keeps(id); id++ {
			require.True(t, time.Now().Before(until), "the lease is lost each time")
			c, other = newCache(t, slow, spec), newCache(t, rdb, spec)
			for len(beats) > 0 {
				<-beats
			}
		}
		require.Empty(t, s.calls, "one load")
	})
}

// In most others the ctx of the first caller is that of everybody, and when its
// request ends, so do the others'.
func TestUp_OutlivesTheCallerThatStartedIt(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		type traceKey struct{}
		s := newSource(t)
		c := newCache(t, rdb, Spec[int, string]{Up: s.up, LeaseTTL: longLease})
		request, end := context.WithCancel(context.WithValue(t.Context(), traceKey{}, "trace"))
		first := asking(request, c, 1)
		load := s.next(t)
		second := asking(t.Context(), c, 1)
		joined(t, c, 2)
		end()
		require.ErrorIs(t, receive(t, first).err, context.Canceled)
		require.NoError(t, load.ctx.Err(), "somebody still waits for it")
		require.Equal(t, "trace", load.ctx.Value(traceKey{}))
		load.returns("up", nil)
		gets(t, "up", second)
		gets(t, "up", asking(t.Context(), c, 1))
		require.EqualValues(t, 1, c.Stats().Loads)
	})
}
