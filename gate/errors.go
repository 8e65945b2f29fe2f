package gate

import (
	"errors"
	"fmt"
	"time"

	"github.com/cachex-go/cachex"
)

var (
	// ErrOutcomeUnknown is cachex.ErrOutcomeUnknown: the call was sent, but its
	// reply was lost. Redis may have carried it out, or may do so later.
	ErrOutcomeUnknown = cachex.ErrOutcomeUnknown

	// ErrForeign reports that the key holds a value that is not a gate, for example the value of a cache with the same template. The key is left as it is.
	ErrForeign = errors.New("the key holds a value that is not a gate: give the gate its own template")

	errNilContext = errors.New("ctx is nil")
	errNilFunc    = errors.New("f is nil")
)

// ClosedError is the error of Do if the gate is closed.
type ClosedError struct {
	Key        string        // the Redis key
	RetryAfter time.Duration // the time until the gate opens, at least 1 ms
}

// Error returns the text of the error.
func (e *ClosedError) Error() string {
	return (&cachex.Error{Op: "do", Key: e.Key, Err: fmt.Errorf("the gate is closed for another %v", e.RetryAfter)}).Error()
}
