package waitfor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/entry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flown returns a load and the flight that it flies.
func flown() (*Load, *Flight) {
	l, f := new(Load), new(Flight)
	f.By(l)
	return l, f
}

func await(l *Load, f *Flight) *Link { return Await(With(context.Background(), l), f) }

func TestAwait_BreaksTheWaitThatClosesACycle(t *testing.T) {
	t.Parallel()
	a, fa := flown()
	b, fb := flown()
	c, fc := flown()
	ab, bc := await(a, fb), await(b, fc)
	ca := await(c, fa)
	require.True(t, over(ca.Broken()))
	require.False(t, over(ab.Broken()))
	require.False(t, over(bc.Broken()))
	ca.End()
	bc.End()
	require.False(t, over(await(c, fa).Broken()), "b waits no more")
}

func TestAwait_OfNoLoadWaitsForAnything(t *testing.T) {
	t.Parallel()
	_, f := flown()
	k := Await(context.Background(), f)
	require.Nil(t, k)
	require.Nil(t, k.Broken())
	k.Move(f)
	k.End()
}

func TestMove_FindsTheCycleToo(t *testing.T) {
	t.Parallel()
	a, fa := flown()
	b, fb := flown()
	ab := await(a, new(Flight))
	ba := await(b, fa)
	ab.Move(fb)
	require.True(t, over(ab.Broken()) != over(ba.Broken()), "one of them")
}

func TestAwaitLease_OfTheLoadThatWaitsIsACycle(t *testing.T) {
	t.Parallel()
	a, _ := flown()
	b, fb := flown()
	token := entry.NewToken()
	a.Hold(token)
	ab := await(a, fb)
	b.AwaitLease(entry.NewToken()) // of another process
	require.False(t, over(ab.Broken()))
	b.AwaitLease(token)
	require.True(t, over(ab.Broken()))
	Release(token)
	require.NotContains(t, leases.m, token)
}

func TestPool_HasRoomForSoMany(t *testing.T) {
	t.Parallel()
	require.Nil(t, NewPool(0))
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(2)
		a, b, c := new(Load), new(Load), new(Load)
		require.True(t, p.TryEnter(a))
		require.True(t, p.TryEnter(b))
		require.False(t, p.TryEnter(c))
		entered := false
		go func() {
			in, err := p.Enter(t.Context(), c)
			entered = in && err == nil
		}()
		synctest.Wait()
		require.False(t, entered)
		p.Pass(a, new(Load))
		p.Leave(b)
		synctest.Wait()
		require.True(t, entered)
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		cancel(gone)
		in, err := p.Enter(ctx, b)
		require.False(t, in)
		require.Equal(t, gone, err)
		require.Nil(t, b.pool)
	})
}

func TestEnter_SparesWhoAwaitsALoadInside(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]bool{"that waited before": true, "that waits later": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				one, two := NewPool(1), NewPool(1)
				a, fa := flown()
				b, fb := flown()
				child, fc := flown()
				require.True(t, one.TryEnter(a))
				require.True(t, two.TryEnter(b))
				wait := func() (*Link, *Link) { return await(a, fb), await(b, fc) }
				if first {
					wait()
				}
				type end struct {
					in  bool
					err error
				}
				ended := make(chan end, 1)
				go func() {
					in, err := one.Enter(t.Context(), child)
					ended <- end{in, err}
				}()
				synctest.Wait()
				if !first {
					require.Empty(t, ended)
					ab, bc := wait()
					require.False(t, over(ab.Broken()) || over(bc.Broken()))
				}
				require.Equal(t, end{}, <-ended, "it goes on without room")
				require.Len(t, one.in, 1)
				_ = fa
			})
		})
	}
}

func TestLoad_KnowsItsKeysAndThoseAboveIt(t *testing.T) {
	t.Parallel()
	group, done := new(int), make(chan struct{})
	outer := New(context.Background(), group, Leg{"k", done})
	inner := New(With(context.Background(), outer), new(string), Leg{"x", nil})
	require.True(t, inner.Loads(group, "k"))
	require.False(t, inner.Loads(group, "x"))
	require.False(t, inner.Nested())
	require.True(t, New(With(context.Background(), inner), group).Nested())
	close(done)
	require.False(t, inner.Loads(group, "k"), "it has ended")
	require.Nil(t, From(With(With(context.Background(), outer), nil)))
}
