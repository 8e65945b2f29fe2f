package convoy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

var echo = script.New("echo", "return ARGV[1]")

// says returns a call whose reply is its argument.
func says(what string) *script.Call {
	return &script.Call{Script: echo, Key: "k", Args: []any{what}}
}

// street is a Convoy in a bubble. It records the pipelines that the Convoy
// sends, and when.
type street struct {
	*Convoy
	rdb    *redis.Client
	began  time.Time
	trips  redistest.Counter
	sizes  []int           // of the pipelines; calls do not overlap
	at     []time.Duration // when they were sent
	within []time.Duration // how long each had; 0 for no end
}

func (s *street) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s *street) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		s.note(ctx, 1)
		return next(ctx, cmd)
	}
}

func (s *street) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		s.note(ctx, len(cmds))
		return next(ctx, cmds)
	}
}

func (s *street) note(ctx context.Context, n int) {
	left := time.Duration(0)
	if end, ok := ctx.Deadline(); ok {
		left = time.Until(end)
	}
	s.sizes, s.at, s.within = append(s.sizes, n), append(s.at, time.Since(s.began)), append(s.within, left)
}

// inStreet runs f with a Convoy of a number of parties, on a server that knows
// the script.
func inStreet(t *testing.T, parties int, f func(t *testing.T, s *street)) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		require.NoError(t, rdb.ScriptLoad(t.Context(), echo.Source()).Err())
		_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error { // a pipeline has a connection of its own
			p.Ping(t.Context())
			p.Ping(t.Context())
			return nil
		})
		require.NoError(t, err)
		s := &street{Convoy: New(rdb), rdb: rdb, began: time.Now()}
		rdb.AddHook(s)
		for range parties - 1 {
			s.Join()
		}
		f(t, s)
		synctest.Wait()
	})
}

// sending is a Send in progress.
type sending struct {
	calls []*script.Call
	took  chan time.Duration
}

func (s *street) sends(ctx context.Context, loaded bool, patience time.Duration, words ...string) sending {
	g := sending{took: make(chan time.Duration, 1)}
	for _, word := range words {
		g.calls = append(g.calls, says(word))
	}
	go func() { // ends with Send
		began := time.Now()
		s.Send(ctx, guard.Go, g.calls, loaded, patience)
		g.took <- time.Since(began)
	}()
	synctest.Wait()
	return g
}

// answered requires that a Send took that long and was answered.
func (g sending) answered(t *testing.T, took time.Duration) {
	t.Helper()
	require.Equal(t, took, <-g.took)
	for _, call := range g.calls {
		require.NoError(t, call.Err)
		require.Equal(t, call.Args[0], call.Reply)
	}
}

// waits requires that a Send has not returned.
func (g sending) waits(t *testing.T) {
	t.Helper()
	synctest.Wait()
	require.Empty(t, g.took)
}
