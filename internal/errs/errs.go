// Package errs holds the errors shared by packages that do not import each
// other. Package loader exports them, and package cachex exports those of
// loader.
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

// Text returns the text of err without "cachex: ", for an error that wraps err
// and adds the prefix itself. So a chain has the prefix once, at its beginning.
func Text(err error) string { return strings.TrimPrefix(err.Error(), "cachex: ") }
