package cachex

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// An unlinked is a hook that is called when a pipeline of UNLINKs has been answered.
type unlinked func()

func (f unlinked) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (f unlinked) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (f unlinked) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() == "unlink" { // and not what a connection opens with
			defer f()
		}
		return next(ctx, cmds)
	}
}

func TestClear_CtxEndReturnsTheCountSoFar(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		prefix := redistest.Key(t) + ":"
		keys := numbered(prefix, 1500)
		fill(t, rdb, keys...)
		hungUp := errors.New("the user hung up")
		ctx, cancel := context.WithCancelCause(t.Context())
		leaving := again(t, rdb)
		leaving.AddHook(unlinked(func() { cancel(hungUp) }))
		c := newCache(t, leaving, Spec[int, string]{Name: "users", Key: prefix + "{id}"})
		n, err := c.Clear(ctx)
		requireError(t, err, Error{Op: "clear", Cache: "users"}, "cachex: clear users: the user hung up")
		require.ErrorIs(t, err, hungUp)
		require.Positive(t, n)
		require.LessOrEqual(t, n, int64(deleteChunk), "it went on after the first batch")
		require.Equal(t, 1500-int(n), left(t, rdb, keys))
		require.Zero(t, c.Stats().RedisFailures)

		rest, err := c.Clear(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1500, n+rest)
		require.Zero(t, left(t, rdb, keys))
	})
}

func TestClear_RedisFailureReturnsTheCountSoFar(t *testing.T) {
	t.Parallel()
	const refused = "Clear needs SCAN, which some proxies and ACLs refuse: "
	unknown := serverError("ERR unknown command 'SCAN'")
	noPerm := serverError("NOPERM this user has no permissions to run the 'scan' command")
	readOnly := serverError("READONLY You can't write against a read only replica.")
	timeout := errors.New("i/o timeout")
	for _, row := range []struct {
		name  string
		fault redistest.Fault
		want  string
		is    error
		n     int // as told
		gone  int // in truth
	}{
		{"SCAN hangs up", redistest.Fault{Match: redistest.Named("scan")}, refused + "EOF", io.EOF, 0, 0},
		{"SCAN is unknown", redistest.Fault{Match: redistest.Named("scan"), Err: unknown}, refused + string(unknown), unknown, 0, 0},
		{"SCAN is forbidden", redistest.Fault{Match: redistest.Named("scan"), Err: noPerm}, refused + string(noPerm), noPerm, 0, 0},
		{"SCAN is slow", redistest.Fault{Match: redistest.Named("scan"), Err: timeout}, "i/o timeout", timeout, 0, 0},
		{"UNLINK hangs up", redistest.Fault{Match: redistest.Named("unlink")}, "EOF", io.EOF, 0, 0},
		{"UNLINK hangs up in the middle", redistest.Fault{Match: redistest.Named("unlink"), Skip: 7}, "EOF", io.EOF, 7, 7},
		{"replies of UNLINK are lost", redistest.Fault{Match: redistest.Named("unlink"), Skip: 7, Executed: true}, "EOF", io.EOF, 7, 30},
		{"UNLINK is refused", redistest.Fault{Match: redistest.Named("unlink"), Skip: 7, Err: readOnly}, string(readOnly), readOnly, 7, 7},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			rdb := redistest.StartEmbedded(t).Client(nil) // which scans in one step, so that all is in one pipeline
			keys := numbered("users:", 30)
			fill(t, rdb, keys...)
			c := newCache(t, faulty(t, rdb, row.fault), Spec[int, string]{Key: "users:{id}"})
			n, err := c.Clear(t.Context())
			requireError(t, err, Error{Op: "clear", Cache: "users"}, "cachex: clear users: "+row.want)
			require.ErrorIs(t, err, row.is)
			require.EqualValues(t, row.n, n)
			require.Equal(t, 30-row.gone, left(t, rdb, keys))
			require.Equal(t, int64(1), c.Stats().RedisFailures)

			n, err = c.Clear(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 30-row.gone, n)
		})
	}
}

func TestClear_HangUpOfALaterScanIsNotARefusal(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client(nil)
	fill(t, rdb, numbered("users:", 5000)...)
	c := newCache(t, faulty(t, rdb, redistest.Fault{Match: redistest.Named("scan"), Skip: 1}), Spec[int, string]{Key: "users:{id}"})
	n, err := c.Clear(t.Context())
	require.EqualError(t, err, "cachex: clear users: EOF")
	require.Positive(t, n)
	require.Equal(t, 5000-n, rdb.DBSize(t.Context()).Val())
}
