package engine

import (
	"github.com/cachex-go/cachex/internal/errs"
	"github.com/cachex-go/cachex/internal/guard"
)

// The errors of package loader, which documents them.
var (
	ErrNotFound  = errs.ErrNotFound
	ErrClosed    = errs.ErrClosed
	ErrReentrant = errs.ErrReentrant
	ErrGoexit    = guard.ErrGoexit
)

// PanicError is loader.PanicError.
type PanicError = guard.PanicError
