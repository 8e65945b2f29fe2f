// Package errs has the errors that parts agree on which know nothing of each
// other. Package loader exports them, and package cachex after it.
package errs

import (
	"errors"
	"strings"
)

var (
	// ErrNotFound is loader.ErrNotFound.
	ErrNotFound = errors.New("not found")

	// ErrClosed is loader.ErrClosed.
	ErrClosed = errors.New("closed")

	// ErrOutcomeUnknown is cachex.ErrOutcomeUnknown.
	ErrOutcomeUnknown = errors.New("outcome unknown")

	// ErrReentrant is loader.ErrReentrant.
	ErrReentrant = errors.New("load asks for the key that it loads")
)

// Text returns the text of err without "cachex: ", for an error that wraps err and says it itself.
// A chain then says it once, at its beginning.
func Text(err error) string { return strings.TrimPrefix(err.Error(), "cachex: ") }
