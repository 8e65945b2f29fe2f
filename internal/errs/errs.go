// Package errs has the errors that parts agree on which know nothing of each
// other. Package loader exports them, and package cachex after it.
package errs

import "errors"

var (
	// ErrNotFound is loader.ErrNotFound.
	ErrNotFound = errors.New("not found")

	// ErrClosed is loader.ErrClosed.
	ErrClosed = errors.New("closed")

	// ErrReentrant is loader.ErrReentrant.
	ErrReentrant = errors.New("load asks for the key that it loads")
)
