package loader

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/cachex-go/cachex/internal/errs"
)

var (
	// ErrNotFound says that the source has no value for a key. A load returns it,
	// perhaps wrapped.
	ErrNotFound = errs.ErrNotFound

	// ErrClosed says that Close was called.
	ErrClosed = errs.ErrClosed

	// ErrReentrant says that a load asked for the very key that it loads, itself
	// or through the loads that it caused: it would have waited for itself. It is
	// found by the ctx, so a load must pass its ctx on.
	ErrReentrant = errs.ErrReentrant

	// ErrGoexit says that a load called runtime.Goexit, as t.FailNow does, instead
	// of returning.
	ErrGoexit = errors.New("load called runtime.Goexit")
)

// A PanicError is the panic of a load. The process lives, the lease is given
// back, and every caller gets the same error.
type PanicError struct {
	Value any    // of panic
	Stack []byte // of the goroutine that panicked, as debug.Stack formats it
}

func newPanicError(value any) *PanicError {
	return &PanicError{Value: value, Stack: debug.Stack()}
}

// Error returns the value of the panic, without the stack: errors are joined and
// logged in one line.
func (e *PanicError) Error() string {
	return fmt.Sprintf("load panicked: %v", e.Value)
}

// Unwrap returns the value of the panic if that is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}
