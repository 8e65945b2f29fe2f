package gate

import (
	"errors"
	"fmt"
	"time"

	"github.com/cachex-go/cachex"
)

var (
	// ErrOutcomeUnknown is cachex.ErrOutcomeUnknown: the call was sent and not
	// answered. It may have been carried out, or may be yet.
	ErrOutcomeUnknown = cachex.ErrOutcomeUnknown

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
