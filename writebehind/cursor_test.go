package writebehind

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// stuck is a server that answers each call of a script with the same cursor.
type stuck struct {
	script *script.Script
	heals  atomic.Bool
}

func (s *stuck) answer(cmds ...redis.Cmder) {
	for _, cmd := range cmds {
		args := cmd.Args()
		if s.heals.Load() || len(args) < 2 || args[1] != s.script.SHA() && args[1] != s.script.Source() {
			continue
		}
		if parts, ok := cmd.(*redis.Cmd).Val().([]any); ok && len(parts) > 0 {
			parts[0] = "7"
		}
	}
}

func (s *stuck) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s *stuck) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		s.answer(cmd)
		return err
	}
}

func (s *stuck) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		s.answer(cmds...)
		return err
	}
}

func TestEngine_EndsAWalkWhoseCursorStandsStill(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		script *script.Script
		ids    int
		walk   func(context.Context, *Engine) error
	}{
		"read a long batch": {script.ReadBatch, 501, func(ctx context.Context, e *Engine) error { return e.Flush(ctx) }}, // TakeBatch returns at most 500
		"list refused ids":  {script.ListRefused, 1, func(ctx context.Context, e *Engine) error { _, err := e.Refused(ctx); return err }},
		"list unread ids":   {script.ListUnread, 1, func(ctx context.Context, e *Engine) error { _, err := e.rescue(ctx, 0, true); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				ctx := bounded(t)
				server := &stuck{script: row.script}
				rdb.AddHook(server)
				d := newDatabase()
				e := engine(t, rdb, options(t, d, Sum))
				for id := range row.ids {
					require.NoError(t, e.Add(ctx, fmt.Sprint(id), 1))
				}
				require.ErrorIs(t, row.walk(ctx, e), errCursor)
				server.heals.Store(true)
				require.NoError(t, row.walk(ctx, e))
				require.NoError(t, e.Flush(ctx), "nothing is lost")
				for id := range row.ids {
					require.EqualValues(t, 1, d.sum(fmt.Sprint(id)))
				}
			})
		})
	}
}
