package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A manual flight ends when the test sends its result and the number of
// entitled waiters.
type manual struct {
	found  chan string
	proven chan int
	began  []context.Context // of the flights, in order
}

func newManual() *manual {
	return &manual{found: make(chan string), proven: make(chan int)}
}

func (m *manual) run(f *flight) {
	m.began = append(m.began, f.ctx)
	select {
	case v := <-m.found:
		f.finish(result{v: &v}, <-m.proven)
	case <-f.ctx.Done():
		f.finish(result{err: context.Cause(f.ctx)}, f.waiterCount())
	}
}

// end ends the active flight.
func (m *manual) end(v string, proven int) {
	m.found <- v
	m.proven <- proven
	synctest.Wait()
}

// rides joins the flight of key, or starts one that fly runs, and returns its
// result.
func rides[V any](ctx context.Context, fs *Flights[V], key string, run func(*flight)) (V, error) {
	w, err := fs.group.join(ctx, key, run)
	if err != nil {
		var zero V
		return zero, err
	}
	r, _ := fs.group.wait(ctx, w, nil)
	return unbox[V](r.v), r.err
}

// join starts n callers of key, one after the other.
func (m *manual) join(ctx context.Context, fs *Flights[string], n int) (calls []*call[string]) {
	for range n {
		calls = append(calls, start(func() (string, error) { return rides(ctx, fs, "a", m.run) }))
		synctest.Wait()
	}
	return calls
}

func requireAll(t *testing.T, want string, calls ...*call[string]) {
	t.Helper()
	for _, c := range calls {
		v, err := c.wait(t)
		require.NoError(t, err)
		require.Equal(t, want, v)
	}
}

func requireRunning(t *testing.T, calls ...*call[string]) {
	t.Helper()
	for _, c := range calls {
		require.True(t, c.running(), "a caller has been answered too early")
	}
}

func TestFlight_AnswersEntitledWaitersAndRequeuesTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		m := newManual()
		ctx := context.WithValue(t.Context(), ctxKey{}, "of the first")
		early := m.join(ctx, &fs, 2)
		late := m.join(t.Context(), &fs, 3)
		m.end("old", 2)
		requireAll(t, "old", early...)
		requireRunning(t, late...)
		later := m.join(t.Context(), &fs, 1)
		m.end("new", 4)
		requireAll(t, "new", append(late, later...)...)
		require.Len(t, m.began, 2, "one flight was enough")
		require.Equal(t, "of the first", m.began[1].Value(ctxKey{}))
		require.Error(t, m.began[0].Err(), "the ctx of a flight ends with it")
		empty(t, &fs)
	})
}

func TestFlight_EntitledToNoneAnswersNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		m := newManual()
		calls := m.join(t.Context(), &fs, 2)
		m.end("old", 0)
		requireRunning(t, calls...)
		m.end("older", 1)
		requireAll(t, "older", calls[0])
		requireRunning(t, calls[1])
		m.end("new", 1)
		requireAll(t, "new", calls[1])
	})
}

func TestFlight_LateWaitersWhoLeftAreNotRequeued(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		m := newManual()
		early := m.join(t.Context(), &fs, 1)
		ctx, cancel := context.WithCancel(t.Context())
		late := m.join(ctx, &fs, 2)
		cancel()
		for _, c := range late {
			_, err := c.wait(t)
			require.ErrorIs(t, err, context.Canceled)
		}
		m.end("v", 1)
		requireAll(t, "v", early...)
		require.Len(t, m.began, 1, "a flight has begun without waiters")
		empty(t, &fs)
	})
}

func TestFlight_LateWaiterLeavesTheNextFlightOnItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		m := newManual()
		early := m.join(t.Context(), &fs, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		hasty, patient := m.join(ctx, &fs, 1), m.join(t.Context(), &fs, 1)
		m.end("old", 1)
		requireAll(t, "old", early...)
		_, err := hasty[0].wait(t)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		m.end("new", 2)
		requireAll(t, "new", patient...)
	})
}

func TestFlight_NextFlightIsCancelledWhenItsLastWaiterLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		m := newManual()
		early := m.join(t.Context(), &fs, 1)
		ctx, cancel := context.WithCancel(t.Context())
		late := m.join(ctx, &fs, 1)
		m.end("old", 1)
		requireAll(t, "old", early...)
		cancel()
		_, err := late[0].wait(t)
		require.ErrorIs(t, err, context.Canceled)
		synctest.Wait()
		require.ErrorIs(t, context.Cause(m.began[1]), errAbandoned)
		empty(t, &fs)
	})
}

func TestFlight_LateWaitersOfAForgottenFlightJoinItsSuccessor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		first, second := newManual(), newManual()
		early, late := first.join(t.Context(), &fs, 1), first.join(t.Context(), &fs, 1)
		fs.Forget("a")
		begun := second.join(t.Context(), &fs, 1)
		first.end("old", 1)
		requireAll(t, "old", early...)
		requireRunning(t, late...)
		second.end("new", 2)
		requireAll(t, "new", append(late, begun...)...)
		require.Len(t, first.began, 1)
		require.Len(t, second.began, 1, "no third flight begins")
		empty(t, &fs)
	})
}

func TestFlight_LateWaitersGetErrClosedAfterClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		m := newManual()
		early, late := m.join(t.Context(), &fs, 1), m.join(t.Context(), &fs, 2)
		closing := start(func() (struct{}, error) { return struct{}{}, fs.Close(t.Context()) })
		synctest.Wait()
		m.end("v", 1)
		requireAll(t, "v", early...)
		for _, c := range late {
			_, err := c.wait(t)
			require.Equal(t, ErrClosed, err)
		}
		_, err := closing.wait(t)
		require.NoError(t, err)
		require.Len(t, m.began, 1)
	})
}

func TestFlight_EachHasTheWholeTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fs := Flights[string]{group: group{timeout: time.Second}}
		m := newManual()
		early, late := m.join(t.Context(), &fs, 1), m.join(t.Context(), &fs, 1)
		time.Sleep(900 * time.Millisecond)
		m.end("old", 1)
		requireAll(t, "old", early...)
		begin := time.Now()
		_, err := late[0].wait(t)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begin))
	})
}

// A load may notice the end of its flight before the flight itself does.
func TestFlight_ContextErrorIsReplacedByItsCause(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	require.NoError(t, withCause(ctx, nil))
	require.Equal(t, context.Canceled, withCause(ctx, context.Canceled), "of a ctx of the load's own")
	cancel(errBroken)
	require.Equal(t, errBroken, withCause(ctx, context.Canceled))
	require.Equal(t, ErrNotFound, withCause(ctx, ErrNotFound))
	require.NoError(t, withCause(ctx, nil), "a value is a value")
}
