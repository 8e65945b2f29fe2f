package script_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// set returns a SET that is sent once, and that a proxy can recognize by its
// value.
func set(ctx context.Context, key, value string) *script.Once {
	return script.NewOnce(redis.NewCmd(ctx, "set", key, value, "get"), 3)
}

// carries returns a function that matches the requests with a value.
func carries(value string) func([]byte) bool {
	return func(request []byte) bool { return bytes.Contains(request, []byte(value)) }
}

func TestOnce_ThatIsNotAnsweredIsNotSentAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	for name, send := range map[string]func(redis.UniversalClient, *script.Once) error{
		"alone": func(rdb redis.UniversalClient, o *script.Once) error { return script.Do(t.Context(), rdb, o) },
		"in a pipeline": func(rdb redis.UniversalClient, o *script.Once) error {
			_ = script.Exec(t.Context(), rdb, []redis.Cmder{redis.NewIntCmd(t.Context(), "unlink", "none"), o})
			return script.Err(o)
		},
	} {
		proxy, key := redistest.NewProxy(t, server.Addr()), redistest.Key(t)
		lines := new(redistest.Lines)
		rdb := server.Client(func(o *redis.Options) { o.Addr, o.MaxRetries, o.Dialer = proxy.Addr(), 3, lines.Dial })
		proxy.HoldNext(1, carries("first value"))
		sent := make(chan error)
		go func() { sent <- send(rdb, set(t.Context(), key, "first value")) }()
		require.Eventually(t, func() bool { return proxy.Caught() == 1 }, patience, time.Millisecond)
		lines.Expire()
		require.ErrorIs(t, <-sent, script.ErrOutcomeUnknown, name)
		require.Equal(t, 1, proxy.Caught(), name)
		require.ErrorIs(t, rdb.Get(t.Context(), key).Err(), redis.Nil, "%s: there was a second copy", name)
	}
}

// A dial that fails, or is refused, is tried again, as for any command.
func TestOnce_IsSentAgainUntilItIsWritten(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	var dials, failures atomic.Int32
	options := func(o *redis.Options) {
		o.DialerRetries, o.MaxRetries, o.PoolSize = 1, 3, 10
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials.Add(1) <= failures.Load() {
				return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("connection refused")}
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
	}
	for _, pipelined := range []bool{false, true} {
		for _, failed := range []int32{0, 1, 2, 1 << 30} {
			dials.Store(0)
			failures.Store(failed)
			rdb, key := server.Client(options), redistest.Key(t)
			o := set(t.Context(), key, "v")
			var err error
			if pipelined {
				_ = script.Exec(t.Context(), rdb, []redis.Cmder{o, redis.NewIntCmd(t.Context(), "unlink", "none")})
				err = script.Err(o)
			} else {
				err = script.Do(t.Context(), rdb, o)
			}
			require.NotErrorIs(t, err, script.ErrOutcomeUnknown)
			if failed > 2 {
				require.ErrorContains(t, err, "connection refused")
				continue
			}
			require.ErrorIs(t, err, redis.Nil, "it was there before, after %d failures", failed)
		}
	}
}

// The face of an AutoPipeline asks for the bytes of a command before it sends
// it.
func TestOnce_IsKnownToBeUnsentByAnAutoPipeline(t *testing.T) {
	t.Parallel()
	away := &redis.Options{
		DialerRetries: 1, MaxRetries: 1,
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: errors.New("nobody there")}
		},
	}
	for _, duplex := range []bool{false, true} {
		base := redis.NewClient(away)
		auto, err := base.AutoPipelineWithOptions(&redis.AutoPipelineOptions{FullDuplex: duplex})
		require.NoError(t, err)
		t.Cleanup(func() { _, _ = auto.Close(), base.Close() })
		err = script.Do(t.Context(), auto, set(t.Context(), "k", "v"))
		require.ErrorContains(t, err, "nobody there", "full duplex: %t", duplex)
		require.NotErrorIs(t, err, script.ErrOutcomeUnknown, "full duplex: %t", duplex)
	}
}

func TestOnce_WaitsForThePoolInVainAndIsKnownToBeUnsent(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	rdb := server.Client(func(o *redis.Options) { o.PoolSize, o.PoolTimeout, o.MaxRetries = 1, 10*time.Millisecond, 1 })
	busy := rdb.Conn() // takes the only connection
	require.NoError(t, busy.Ping(t.Context()).Err())
	t.Cleanup(func() { _ = busy.Close() })
	err := script.Do(t.Context(), rdb, set(t.Context(), redistest.Key(t), "v"))
	require.ErrorIs(t, err, redis.ErrPoolTimeout)
	require.NotErrorIs(t, err, script.ErrOutcomeUnknown)
}

// If Redis refuses the command, it has not run it; so Do tries it again.
func TestOnce_IsSentAgainAfterARefusal(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb, other := server.Client(nil), server.Client(nil)
	require.NoError(t, other.Do(t.Context(), "replicaof", "127.0.0.1", "1").Err())
	refusals := 0
	rdb.AddHook(after(func(err error) {
		if redis.IsReadOnlyError(err) {
			if refusals++; refusals == 2 {
				_ = other.Do(t.Context(), "replicaof", "no", "one").Err()
			}
		}
	}))
	require.ErrorIs(t, script.Do(t.Context(), rdb, set(t.Context(), "k", "v")), redis.Nil)
	require.Equal(t, 2, refusals)
	require.Equal(t, "v", other.Get(t.Context(), "k").Val())

	require.NoError(t, other.Do(t.Context(), "replicaof", "127.0.0.1", "1").Err())
	refusals = 3 // forever
	err := script.Do(t.Context(), rdb, set(t.Context(), "k", "w"))
	require.True(t, redis.IsReadOnlyError(err), err)
	require.NotErrorIs(t, err, script.ErrOutcomeUnknown)
	require.Equal(t, 3+1+3, refusals, "as often as the client sends any command")
}

// after is a hook that sees the error of each command.
type after func(error)

func (after) DialHook(next redis.DialHook) redis.DialHook                               { return next }
func (after) ProcessPipelineHook(n redis.ProcessPipelineHook) redis.ProcessPipelineHook { return n }
func (f after) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		f(err)
		return err
	}
}

// If a caller leaves before a byte was written, the command is never sent.
func TestRunOrLeave_NeverSendsWhatItsCallerHasLeft(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	for name, n := range map[string]int{"alone": 1, "in a pipeline": 3} {
		dialing, dial := make(chan struct{}, 1), make(chan struct{})
		rdb := server.Client(func(o *redis.Options) {
			o.MaxRetries, o.PoolSize = -1, 1
			o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
				select {
				case dialing <- struct{}{}:
				default:
				}
				<-dial // ignores its context
				return new(net.Dialer).DialContext(context.WithoutCancel(ctx), network, addr)
			}
		})
		add := unheardOf(t, addition)
		calls := make([]*script.Call, n)
		for i := range calls {
			calls[i] = &script.Call{Script: add, Key: redistest.Key(t), Args: []any{1}, Once: true}
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { // ends with dial
			<-dialing
			cancel()
		}()
		ended := make(chan struct{})
		convoy.RunOrLeave(ctx, rdb, time.Hour, func(code guard.Code, fn func() error, done func(error)) {
			guard.Go(code, fn, func(err error) { done(err); close(ended) })
		}, calls,
			func(_ context.Context, sent []*script.Call) { convoy.Run(context.Background(), rdb, sent) })
		for _, c := range calls {
			require.ErrorIs(t, c.Err, context.Canceled, name)
			require.NotErrorIs(t, c.Err, script.ErrOutcomeUnknown, name)
		}
		close(dial)
		<-ended
		require.NoError(t, rdb.Ping(t.Context()).Err(), "the connection was not left with a half of a command")
		for _, c := range calls {
			require.ErrorIs(t, rdb.Get(t.Context(), c.Key).Err(), redis.Nil, name)
		}
	}
}

func TestRunOrLeave_SaysThatWhatWasWrittenMayBeCarriedOut(t *testing.T) {
	t.Parallel()
	proxy := redistest.NewProxy(t, redistest.Shared(t).Addr())
	rdb := redistest.Shared(t).Client(func(o *redis.Options) { o.Addr, o.MaxRetries = proxy.Addr(), -1 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	proxy.HoldNext(1, func(request []byte) bool {
		is := carries("a telling argument")(request)
		if is {
			cancel()
		}
		return is
	})
	call := &script.Call{
		Script: unheardOf(t, addition), Key: redistest.Key(t), Args: []any{1, "a telling argument"}, Once: true,
	}
	convoy.RunOrLeave(ctx, rdb, time.Hour, guard.Go, []*script.Call{call},
		func(ctx context.Context, sent []*script.Call) { convoy.Run(ctx, rdb, sent) })
	require.ErrorIs(t, call.Err, context.Canceled)
	require.ErrorIs(t, call.Err, script.ErrOutcomeUnknown)
	proxy.Release()
}

// If Redis refuses the greeting of a connection, the client dials again, as
// often as for any command. Nothing was written, and Do adds no attempts of its
// own.
func TestOnce_IsNotTriedAgainWhereTheClientHasTried(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	require.NoError(t, server.Client(nil).Do(t.Context(), "replicaof", "127.0.0.1", "1").Err())
	var greetings atomic.Int32
	rdb := server.Client(func(o *redis.Options) {
		o.OnConnect = func(ctx context.Context, c *redis.Conn) error {
			greetings.Add(1)
			return c.Set(ctx, "greeting", "hello", 0).Err()
		}
	})
	require.True(t, redis.IsReadOnlyError(rdb.Set(t.Context(), "k", "v", 0).Err()))
	want := greetings.Swap(0)
	require.Positive(t, want)
	require.True(t, redis.IsReadOnlyError(script.Do(t.Context(), rdb, set(t.Context(), "k", "v"))))
	require.Equal(t, want, greetings.Load())
}
