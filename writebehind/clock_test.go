package writebehind

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
)

// back is how far the clock of the server is set back.
const back = 5 * time.Minute

// A batch is in its back-off, or a dead process holds it, and the clock of the
// server is set back. The batch waits no longer than without that.
func TestTake_ABatchWaitsNoLongerThoughTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(t *testing.T, e *Engine, d *database) time.Duration{
		"Persist has failed": func(t *testing.T, e *Engine, d *database) time.Duration {
			failed := errors.New("the database is away")
			d.fail(func(ledger.Batch) error { return failed })
			require.ErrorIs(t, e.flush(t.Context(), 0, false), failed)
			d.fail(nil)
			return e.o.Every
		},
		"its process is gone": func(t *testing.T, e *Engine, _ *database) time.Duration {
			tk, err := e.take(t.Context(), 0, false)
			require.NoError(t, err)
			require.Equal(t, taken, tk.state)
			return e.o.LeaseTTL
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, now := redistest.StartEmbedded(t), time.Now()
			server.SetTime(now)
			d := newDatabase()
			o := options(t, d, Sum)
			o.Every = time.Second
			open := func() *Engine {
				e := engine(t, server.Client(nil), o)
				e.begun.Store(true) // nothing happens in the background
				t.Cleanup(func() { e.begun.Store(false) })
				return e
			}
			first, second := open(), open()
			require.NoError(t, first.Add(t.Context(), "x", 1))
			wait := leave(t, first, d)

			server.SetTime(now.Add(-back))
			all, err := second.survey(t.Context(), false)
			require.NoError(t, err)
			require.True(t, all[0].due(second.me), "a sweeper leaves it alone")
			tk, err := second.take(t.Context(), 0, false)
			require.NoError(t, err)
			require.Equal(t, busy, tk.state)
			require.LessOrEqual(t, tk.wait, wait)

			server.SetTime(now.Add(wait - back))
			require.NoError(t, second.flush(t.Context(), 0, false))
			require.EqualValues(t, 1, d.sum("x"))
		})
	}
}

// The age of a waiting id is at least as long as this process knows of it.
func TestBacklog_OldestIsKnownThoughTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	server, now := redistest.StartEmbedded(t), time.Now()
	server.SetTime(now)
	o := options(t, newDatabase(), Sum)
	e, fresh := engine(t, server.Client(nil), o), engine(t, server.Client(nil), o)
	require.NoError(t, e.Add(t.Context(), "x", 1))
	oldest := func(e *Engine) time.Duration {
		b, err := e.Backlog(t.Context())
		require.NoError(t, err)
		return b.Oldest
	}
	server.SetTime(now.Add(10 * time.Second))
	require.GreaterOrEqual(t, oldest(e), 10*time.Second)
	server.SetTime(now.Add(-back))
	require.GreaterOrEqual(t, oldest(e), 10*time.Second)
	require.Positive(t, oldest(fresh), "it waits, for how long is not known")
}
