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
