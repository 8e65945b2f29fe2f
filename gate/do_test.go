package gate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/gate"
	"github.com/cachex-go/cachex/internal/redistest"
)

// nothing is a func that succeeds.
func nothing(context.Context) error { return nil }

// unreachable is a func that must not be called.
func unreachable(t testing.TB) func(context.Context) error {
	return func(context.Context) error {
		t.Error("f was called behind a closed gate")
		return nil
	}
}

func TestDo_CallsFOnceAnInterval(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		prefix := redistest.Key(t)
		g := gateOf(t, rdb, prefix, every)
		type mark struct{}
		ctx := context.WithValue(t.Context(), mark{}, "ours")
		for range 2 {
			calls := 0
			require.NoError(t, g.Do(ctx, 1, func(ctx context.Context) error {
				require.Equal(t, "ours", ctx.Value(mark{}))
				calls++
				return nil
			}))
			require.Equal(t, 1, calls)
			time.Sleep(2 * time.Second)

			err := g.Do(ctx, 1, unreachable(t))
			closed, ok := errors.AsType[*gate.ClosedError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, gate.ClosedError{Key: prefix + ":1", RetryAfter: 3 * time.Second}, *closed)
			require.EqualError(t, err, "cachex: do "+prefix+":1: the gate is closed for another 3s")
			time.Sleep(3 * time.Second)
		}
	})
}

// exits calls Do on another goroutine, which f may end, and returns the value
// that Do panicked with.
func exits(g *gate.Gate[int], id int, f func(context.Context) error) (panicked any) {
	done := make(chan struct{})
	go func() { // ends with Do
		defer close(done)
		defer func() { panicked = recover() }()
		_ = g.Do(context.Background(), id, f)
	}()
	<-done
	return panicked
}

func TestDo_ReopensAfterAFailure(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		g := newGate(t, rdb, time.Hour)
		broken := fmt.Errorf("no mail server: %w", io.ErrUnexpectedEOF)

		require.Equal(t, broken, g.Do(t.Context(), 1, func(context.Context) error { return broken }), "the error as it is")
		tries(t, g, 1, true)
		require.NoError(t, g.Reset(t.Context(), 1))

		require.Equal(t, "boom", exits(g, 1, func(context.Context) error { panic("boom") }), "the panic as it is")
		tries(t, g, 1, true)
		require.NoError(t, g.Reset(t.Context(), 1))

		require.Nil(t, exits(g, 1, func(context.Context) error { runtime.Goexit(); return nil }))
		tries(t, g, 1, true)
		require.NoError(t, g.Reset(t.Context(), 1))

		ctx, cancel := context.WithCancel(t.Context())
		require.ErrorIs(t, g.Do(ctx, 1, func(ctx context.Context) error { cancel(); return ctx.Err() }), context.Canceled)
		tries(t, g, 1, true)
		tries(t, g, 1, false)
	})
}

func TestDo_GateIsClosedWhileFRuns(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		g := newGate(t, rdb, time.Hour)
		require.NoError(t, g.Do(t.Context(), 1, func(ctx context.Context) error {
			_, ok := errors.AsType[*gate.ClosedError](g.Do(ctx, 1, unreachable(t)))
			require.True(t, ok)
			return g.Do(ctx, 2, nothing)
		}))
		tries(t, g, 1, false)
		tries(t, g, 2, false)
	})
}

// A call that takes longer than the interval does not hold the gate, and its
// failure does not open the gate that another caller has closed.
func TestDo_SlowFailureDoesNotOpenTheGateOfALaterCaller(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		g := newGate(t, rdb, every)
		err := g.Do(t.Context(), 1, func(context.Context) error {
			time.Sleep(every)
			tries(t, g, 1, true) // another caller
			return io.EOF
		})
		require.Equal(t, io.EOF, err)
		tries(t, g, 1, false)

		time.Sleep(every)
		err = g.Do(t.Context(), 1, func(context.Context) error {
			time.Sleep(2 * every)
			return io.EOF
		})
		require.Equal(t, io.EOF, err)
		tries(t, g, 1, true)
	})
}

func TestDo_WrongCallIsAnErrorAndCallsNothing(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	require.NoError(t, rdb.Close())
	g, err := gate.New(rdb, gate.Spec[string]{Key: "mails:{name}", Every: every})
	require.NoError(t, err)
	ended, cancel := context.WithCancelCause(context.Background())
	cancel(io.ErrClosedPipe)
	long := strings.Repeat("x", 2000)
	for want, call := range map[string]struct {
		ctx context.Context
		key string
		is  error
	}{
		"%s mails: ctx is nil":                   {nil, "ann", nil},
		"%s mails:ann: io: read/write on closed": {ended, "ann", io.ErrClosedPipe},
		"%s mails: key too long: at least":       {context.Background(), long, nil},
		"%s mails:ann: script ":                  {context.Background(), "ann", redis.ErrClosed},
	} {
		_, _, tried := g.Try(call.ctx, call.key)
		for op, err := range map[string]error{
			"try": tried, "do": g.Do(call.ctx, call.key, unreachable(t)), "reset": g.Reset(call.ctx, call.key),
		} {
			require.ErrorContains(t, err, "cachex: "+fmt.Sprintf(want, op))
			require.NotErrorIs(t, err, gate.ErrOutcomeUnknown, "nothing was sent")
			e, ok := errors.AsType[*cachex.Error](err)
			require.True(t, ok)
			require.Equal(t, "mails", e.Cache)
			if call.is != nil {
				require.ErrorIs(t, err, call.is)
			}
		}
	}
	require.EqualError(t, g.Do(context.Background(), "ann", nil), "cachex: do mails:ann: f is nil")
}
