package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestForgetAll_LaterCallersOfEveryKeyLoadAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		fs.ForgetAll() // no key is being loaded
		oldA := start(func() (string, error) { return fs.Do(t.Context(), "a", slow(2*time.Second, "old a")) })
		oldB := start(func() (string, error) { return fs.Do(t.Context(), "b", slow(2*time.Second, "old b")) })
		synctest.Wait()
		fs.ForgetAll()
		newA := start(func() (string, error) { return fs.Do(t.Context(), "a", slow(5*time.Second, "new a")) })
		newB := start(func() (string, error) { return fs.Do(t.Context(), "b", slow(5*time.Second, "new b")) })
		time.Sleep(3 * time.Second) // the old flights have ended, and must not remove the new ones
		joined := start(func() (string, error) { return fs.Do(t.Context(), "a", unheard(t)) })
		for c, want := range map[*call[string]]string{oldA: "old a", oldB: "old b", newA: "new a", newB: "new b", joined: "new a"} {
			v, err := c.wait(t)
			require.NoError(t, err)
			require.Equal(t, want, v)
		}
		empty(t, &fs)
	})
}

// Close also ends flights that no caller can join any more.
func TestForgetAll_CloseCancelsDetachedFlights(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fs Flights[string]
		old := start(func() (string, error) { return fs.Do(t.Context(), "a", slow(time.Hour, "old")) })
		synctest.Wait()
		fs.ForgetAll()
		hungUp := errors.New("the test has waited enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, hungUp)
		defer cancel()
		require.ErrorIs(t, fs.Close(ctx), hungUp)
		_, err := old.wait(t)
		require.ErrorIs(t, err, ErrClosed)
		empty(t, &fs)
	})
}
