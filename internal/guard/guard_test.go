package guard

import (
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRun_TellsHowTheCodeEnded(t *testing.T) {
	t.Parallel()
	hook := Named("the hook")
	for name, row := range map[string]struct {
		code Code
		fn   func() error
		want string // "" for nil
		is   error
	}{
		"nil":      {hook, func() error { return nil }, "", nil},
		"an error": {hook, func() error { return io.EOF }, "EOF", io.EOF},
		"a panic":  {hook, func() error { panic("s3cret") }, "the hook panicked with a string", nil},
		"a panic with an error": {
			hook, func() error { panic(fmt.Errorf("s3cret: %w", io.EOF)) },
			"the hook panicked with a *fmt.wrapError", io.EOF,
		},
		"a panic with nil":  {hook, func() error { panic(nil) }, "the hook panicked: panic called with nil argument", nil},
		"a runtime error":   {hook, func() error { return make([]error, 1)[len(hook.name)] }, "the hook panicked: runtime error: index out of range [8] with length 1", nil},
		"a panic of a load": {Load, func() error { panic("boom") }, "load panicked: boom", nil},
		"a Goexit":          {Load, func() error { runtime.Goexit(); return nil }, "load called runtime.Goexit", ErrGoexit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan error, 2)
			Go(row.code, row.fn, func(err error) { ended <- err })
			err := <-ended
			require.Empty(t, ended)
			if row.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, row.want)
			if row.is != nil {
				require.ErrorIs(t, err, row.is)
			}
		})
	}
}

func TestCatch_KeepsTheStackOfThePanic(t *testing.T) {
	t.Parallel()
	err := Call(Client, func() error { panics(); return nil })
	var p *PanicError
	require.ErrorAs(t, err, &p)
	require.Equal(t, "boom", p.Value)
	require.Contains(t, string(p.Stack), "guard.panics(")
}

func panics() { panic("boom") }
