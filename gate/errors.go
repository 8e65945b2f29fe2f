package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/script"
)

var (
	// ErrOutcomeUnknown says that the reply of Redis was lost. The call may have
	// been carried out, or may still be.
	ErrOutcomeUnknown = script.ErrOutcomeUnknown

	// ErrForeign says that the key holds something that is not a gate: the value of
	// a cache with the same template, for instance. It was left as it is.
	ErrForeign = errors.New("the key holds something that is not a gate: give the gate a template of its own")

	errNilContext = errors.New("ctx is nil")
	errNilFunc    = errors.New("f is nil")
)

// A ClosedError is the error of Do at a gate that is closed.
type ClosedError struct {
	Key        string        // the key in Redis
	RetryAfter time.Duration // the gate opens after so long; at least 1 ms
}

// Error returns the text of the error.
func (e *ClosedError) Error() string {
	return (&cachex.Error{Op: "do", Key: e.Key, Err: fmt.Errorf("the gate is closed for another %v", e.RetryAfter)}).Error()
}

// cause returns the error of a call that failed with err, and may have been
// carried out if maybe is set.
func cause(ctx context.Context, err error, maybe bool) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if maybe {
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return err
}
