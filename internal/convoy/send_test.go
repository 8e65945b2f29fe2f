package convoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestSendReportsAnErrorOnlyIfNothingWasAnswered(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		faults := new(redistest.Faults)
		rdb.AddHook(faults)
		key := redistest.Key(t)
		require.NoError(t, rdb.Set(t.Context(), key, "v", 0).Err())
		require.NoError(t, rdb.HSet(t.Context(), key+"h", "f", "v").Err())
		queue := func() (redis.Pipeliner, []*redis.StringCmd) {
			p := rdb.Pipeline()
			return p, []*redis.StringCmd{p.Get(t.Context(), key+"none"), p.Get(t.Context(), key), p.Get(t.Context(), key+"h"), p.Get(t.Context(), key)}
		}
		p, cmds := queue()
		require.NoError(t, Send(t.Context(), rdb, p))
		require.ErrorIs(t, cmds[0].Err(), redis.Nil)
		require.Equal(t, "v", cmds[1].Val())
		require.ErrorContains(t, cmds[2].Err(), "WRONGTYPE")
		require.Equal(t, "v", cmds[3].Val())

		faults.Add(redistest.Fault{Skip: 2})
		p, cmds = queue()
		require.NoError(t, Send(t.Context(), rdb, p), "two were answered")
		require.ErrorIs(t, cmds[0].Err(), redis.Nil)
		require.Equal(t, "v", cmds[1].Val())
		require.ErrorIs(t, cmds[2].Err(), io.EOF)
		require.ErrorIs(t, cmds[3].Err(), io.EOF)

		faults.Add(redistest.Fault{})
		p, cmds = queue()
		require.ErrorIs(t, Send(t.Context(), rdb, p), io.EOF)
		for _, cmd := range cmds {
			require.ErrorIs(t, cmd.Err(), io.EOF)
		}
	})
}

func TestSendSendsFiveHundredCommandsAtATime(t *testing.T) {
	t.Parallel()
	inStreet(t, 1, func(t *testing.T, s *street) {
		faults := new(redistest.Faults)
		s.rdb.AddHook(faults)
		for _, row := range []struct {
			n     int
			sizes []int
		}{{1, []int{1}}, {500, []int{500}}, {501, []int{500, 1}}, {1200, []int{500, 500, 200}}} {
			s.sizes = nil
			p := s.rdb.Pipeline()
			cmds := make([]*redis.StringCmd, row.n)
			for i := range cmds {
				cmds[i] = p.Echo(t.Context(), fmt.Sprint(i))
			}
			require.NoError(t, Send(t.Context(), s.rdb, p))
			require.Equal(t, row.sizes, s.sizes)
			for i, cmd := range cmds {
				require.Equal(t, fmt.Sprint(i), cmd.Val())
			}
		}

		// The failure of one pipeline does not affect the others.
		faults.Add(redistest.Fault{})
		p := s.rdb.Pipeline()
		for i := range 501 {
			p.Echo(t.Context(), fmt.Sprint(i))
		}
		cmds := p.Cmds()
		require.NoError(t, Send(t.Context(), s.rdb, p))
		require.ErrorIs(t, cmds[499].Err(), io.EOF)
		require.NoError(t, cmds[500].Err())
	})
}

func TestSendTellsOfAHookThatRefuses(t *testing.T) {
	t.Parallel()
	inStreet(t, 1, func(t *testing.T, s *street) {
		refused := errors.New("refused")
		s.rdb.AddHook(&badHook{do: func() error { return refused }})
		p := s.rdb.Pipeline()
		cmds := []*redis.StringCmd{p.Get(t.Context(), "a"), p.Get(t.Context(), "b")}
		require.ErrorIs(t, Send(t.Context(), s.rdb, p), refused)
		for _, cmd := range cmds {
			require.ErrorIs(t, cmd.Err(), refused)
		}
	})
}

func TestLeaveReturnsWhatTheCallReturnsAndElseLeavesIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := guard.Go
		failed := errors.New("failed")
		v, err := Leave(t.Context(), time.Second, start, func(ctx context.Context) (int, error) {
			end, _ := ctx.Deadline()
			require.Equal(t, time.Second, time.Until(end))
			return 7, failed
		})
		require.Equal(t, 7, v)
		require.ErrorIs(t, err, failed)

		goOn := make(chan bool)
		deaf := func(context.Context) (int, error) { <-goOn; return 7, nil }
		began := time.Now()
		v, err = Leave(t.Context(), time.Second, start, deaf)
		require.Zero(t, v)
		require.ErrorIs(t, err, ErrSilent)
		require.Equal(t, time.Second, time.Since(began))

		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(ms, func() { cancel(failed) })
		began = time.Now()
		_, err = Leave(ctx, time.Second, start, deaf)
		require.ErrorIs(t, err, failed)
		require.Equal(t, ms, time.Since(began))
		close(goOn)

		// A hook of the client may panic like this.
		for _, ctx := range []context.Context{t.Context(), context.Background()} {
			_, err = Leave(ctx, time.Second, start, func(context.Context) (int, error) { panic(failed) })
			require.ErrorIs(t, err, failed)
			require.EqualError(t, err, "client panicked with a *errors.errorString")
		}
		_, err = Leave(t.Context(), time.Second, start, func(context.Context) (int, error) { runtime.Goexit(); return 0, nil })
		require.ErrorIs(t, err, guard.ErrGoexit)
	})
}
