package writebehind

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// endless is a proxy that answers each call of a script with 2: call again.
type endless struct {
	script *script.Script
	heals  atomic.Bool
}

func (s *endless) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s *endless) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		args := cmd.Args()
		if s.heals.Load() || len(args) < 2 || args[1] != s.script.SHA() && args[1] != s.script.Source() {
			return next(ctx, cmd)
		}
		cmd.(*redis.Cmd).SetVal(int64(2))
		return nil
	}
}

func (s *endless) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestEngine_EndsAScriptThatIsNeverDone(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		script *script.Script
		run    func(context.Context, *Engine) error
	}{
		"acknowledge": {script.AckBatch, func(ctx context.Context, e *Engine) error { return e.Flush(ctx) }},
		"settle": {script.SettleBatch, func(ctx context.Context, e *Engine) error {
			_, err := e.parts(ctx, script.SettleBatch, 0, "5", "none", "sum", "me", "5", "6", "fresh", 100, "0")
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				ctx := bounded(t)
				proxy := &endless{script: row.script}
				rdb.AddHook(proxy)
				d := newDatabase()
				e := engine(t, rdb, options(t, d, Sum))
				require.NoError(t, e.Add(ctx, "1", 1))
				require.ErrorIs(t, row.run(ctx, e), errParts)
				proxy.heals.Store(true)
				require.NoError(t, row.run(ctx, e))
				require.NoError(t, e.Flush(ctx), "nothing is lost")
				require.EqualValues(t, 1, d.sum("1"))
			})
		})
	}
}
