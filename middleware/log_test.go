package middleware

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/loader"
)

// logged returns a logger of every level and its output, without times.
func logged() (*slog.Logger, *strings.Builder) {
	var out strings.Builder
	return slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})), &out
}

func TestLog_WritesOneRecordACall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for want, returned := range map[string]error{
			"level=INFO msg=call key=42 took=3s\n":                                  nil,
			"level=INFO msg=call key=42 took=3s err=\"user 42: not found\"\n":       fmt.Errorf("user 42: %w", loader.ErrNotFound),
			"level=INFO msg=call key=42 took=3s err=\"context canceled\"\n":         context.Canceled,
			"level=ERROR msg=call key=42 took=3s err=\"the source is broken\"\n":    errBroken,
			"level=ERROR msg=call key=42 took=3s err=\"breaker is open, for 1s\"\n": &OpenError{time.Second},
		} {
			logger, out := logged()
			v, err := Chain(func(context.Context, int) (int, error) {
				time.Sleep(3 * time.Second)
				return 123456, returned
			}, of.Log(logger))(t.Context(), 42)
			require.Equal(t, returned, err)
			require.Equal(t, 123456, v)
			require.Equal(t, want, out.String())
		}
	})
}

func TestLog_FollowsItsOptions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		logger, out := logged()
		f := Chain(fails(errBroken).get, of.Log(logger, LogOptions{
			Message: "UserByID",
			Level: func(err error) slog.Level {
				if err != nil {
					return slog.LevelWarn
				}
				return slog.LevelDebug - 1 // below every enabled level
			},
		}))
		_, _ = f(t.Context(), 42)
		_, _ = f(t.Context(), 43)
		require.Equal(t, "level=WARN msg=UserByID key=42 took=0s err=\"the source is broken\"\n", out.String())
	})
}

func TestLog_HideKeyHidesItInErrorsToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const secret = "ada@example.com"
		by := For(func(context.Context, string) (int, error) { return 0, nil })
		for want, err := range map[string]error{
			`level=INFO msg=call took=0s` + "\n":                                                                                                     nil,
			`level=ERROR msg=call took=0s err="(*fmt.wrapError: *errors.errorString)"` + "\n":                                                        fmt.Errorf("user %s: %w", secret, errBroken),
			`level=INFO msg=call took=0s err="not found, (*fmt.wrapError: *errors.errorString)"` + "\n":                                              fmt.Errorf("user %s: %w", secret, loader.ErrNotFound),
			`level=ERROR msg=call took=0s err="breaker is open, (*middleware.callError[string]: *middleware.OpenError: *errors.errorString)"` + "\n": failed("breaker", secret, &OpenError{}),
			`level=ERROR msg=call took=0s err="context deadline exceeded, (*middleware.callError[string]: *middleware.timeoutError)"` + "\n":         failed("timeout", secret, &timeoutError{time.Second, errBroken}),
			`level=ERROR msg=call took=0s err="context deadline exceeded, (context.deadlineExceededError)"` + "\n":                                   context.DeadlineExceeded,
		} {
			logger, out := logged()
			_, got := Chain(func(context.Context, string) (int, error) { return 0, err },
				by.Log(logger, LogOptions{HideKey: true}))(t.Context(), secret)
			require.Equal(t, err, got)
			require.Equal(t, want, out.String())
			require.NotContains(t, out.String(), "ada")
		}
	})
}

// ticket decides in LogValue what a log shows.
type ticket string

func (ticket) LogValue() slog.Value { return slog.StringValue("hidden") }

func TestLog_KeyMayBeALogValuer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		logger, out := logged()
		f := func(context.Context, ticket) (int, error) { return 0, nil }
		_, err := Chain(f, For(f).Log(logger))(t.Context(), "t0p")
		require.NoError(t, err)
		require.Equal(t, "level=INFO msg=call key=hidden took=0s\n", out.String())
	})
}

func TestLog_RecordsACallThatDoesNotReturn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, hide := range []bool{false, true} {
			logger, out := logged()
			f := Chain(func(context.Context, int) (int, error) { panic("a value") }, of.Log(logger, LogOptions{HideKey: hide}))
			require.PanicsWithValue(t, "a value", func() { _, _ = f(t.Context(), 42) })
			require.Contains(t, out.String(), "level=ERROR msg=call")
			require.Contains(t, out.String(), "panicked or called runtime.Goexit")
			require.NotContains(t, out.String(), "a value")
			require.Equal(t, !hide, strings.Contains(out.String(), "key=42"))
		}
	})
}

// It is not parallel: the default logger is global.
func TestLog_NilIsTheDefaultAtTheTimeOfTheCall(t *testing.T) {
	f := Chain(fails(errors.New("first"), errors.New("second")).get, of.Log(nil))
	old := slog.Default()
	defer slog.SetDefault(old)
	for _, want := range []string{"first", "second"} {
		logger, out := logged()
		slog.SetDefault(logger)
		_, _ = f(t.Context(), 42)
		require.Equal(t, 1, strings.Count(out.String(), "\n"))
		require.Contains(t, out.String(), "err="+want)
	}
}

type traceKey struct{}

// tracing is a Handler that uses the ctx of the call.
type tracing struct{ slog.Handler }

func (h tracing) Handle(ctx context.Context, r slog.Record) error {
	r.AddAttrs(slog.Any("trace", ctx.Value(traceKey{})))
	return h.Handler.Handle(ctx, r)
}

func TestLog_HandlerGetsTheCtxOfTheCall(t *testing.T) {
	t.Parallel()
	logger, out := logged()
	ctx := context.WithValue(t.Context(), traceKey{}, "a1")
	_, err := Chain(double, of.Log(slog.New(tracing{logger.Handler()})))(ctx, 42)
	require.NoError(t, err)
	require.Contains(t, out.String(), "trace=a1")
}
