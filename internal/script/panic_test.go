package script_test

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// crash is a hook that panics before a command is sent, or after the reply; but
// not when go-redis opens a connection.
type crash struct{ after bool }

func (crash) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h crash) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if opens(cmd) {
			return next(ctx, cmd)
		}
		if h.after {
			_ = next(ctx, cmd)
		}
		panic("the hook")
	}
}

func (h crash) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if opens(cmds[0]) {
			return next(ctx, cmds)
		}
		if h.after {
			_ = next(ctx, cmds)
		}
		panic("the hook")
	}
}

func opens(cmd redis.Cmder) bool { return cmd.Name() == "hello" || cmd.Name() == "client" }

// A panic of the client is the error of each command that has no error. The
// error of a Once says whether it may have been carried out.
func TestSend_SaysWhatMayBeCarriedOutWhenTheClientPanics(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	clean := redis.NewClient(&redis.Options{Addr: server.Addr(), ReadTimeout: redistest.Patience})
	t.Cleanup(func() { _ = clean.Close() })
	var crashed *guard.PanicError
	for name, send := range map[string]func(redis.UniversalClient, redis.Cmder){
		"alone": func(rdb redis.UniversalClient, cmd redis.Cmder) { _ = script.Do(t.Context(), rdb, cmd) },
		"in a pipeline": func(rdb redis.UniversalClient, cmd redis.Cmder) {
			_ = script.Exec(t.Context(), rdb, []redis.Cmder{redis.NewIntCmd(t.Context(), "unlink", "none"), cmd})
		},
	} {
		for _, after := range []bool{false, true} {
			rdb, key := redis.NewClient(&redis.Options{Addr: server.Addr(), ReadTimeout: redistest.Patience}), redistest.Key(t)
			t.Cleanup(func() { _ = rdb.Close() })
			rdb.AddHook(crash{after})

			get := redis.NewStringCmd(t.Context(), "get", key)
			send(rdb, get)
			if after && name != "alone" {
				require.ErrorIs(t, get.Err(), redis.Nil, "%s: it has an error of its own", name)
			} else {
				require.ErrorAs(t, get.Err(), &crashed, name)
			}

			once := set(t.Context(), key, "value")
			send(rdb, once)
			held, err := clean.Get(t.Context(), key).Result()
			switch err := script.Err(once); {
			case !after:
				require.ErrorAs(t, err, &crashed, name)
				require.NotErrorIs(t, err, script.ErrOutcomeUnknown, "%s: no byte has left", name)
				require.Empty(t, held, name)
				continue
			case name == "alone":
				require.ErrorAs(t, err, &crashed, name)
				require.ErrorIs(t, err, script.ErrOutcomeUnknown, name)
			default: // go-redis marks the commands of a pipeline before the hook returns
				require.ErrorIs(t, err, redis.Nil, name)
			}
			require.NoError(t, err, name)
			require.Equal(t, "value", held, name)
		}
	}
}
