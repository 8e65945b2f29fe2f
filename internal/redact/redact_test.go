package redact

import (
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheTextOfTheCauseDoesNotShowButTheCauseIsInTheChain(t *testing.T) {
	t.Parallel()
	err := Error("it failed", fmt.Errorf("s3cret: %w", io.ErrClosedPipe))
	require.EqualError(t, err, "it failed")
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

func TestAPanicIsToldByItsTypeAlone(t *testing.T) {
	t.Parallel()
	require.EqualError(t, Panic("the hook", "s3cret"), "the hook panicked with a string")
	err := Panic("the hook", fmt.Errorf("s3cret: %w", io.ErrClosedPipe))
	require.EqualError(t, err, "the hook panicked with a *fmt.wrapError")
	require.ErrorIs(t, err, io.ErrClosedPipe)
}
