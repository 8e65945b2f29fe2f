package loader

import (
	"github.com/cachex-go/cachex/internal/errs"
	"github.com/cachex-go/cachex/internal/guard"
)

var (
	// ErrNotFound means that the source has no value for a key. A load returns it,
	// perhaps wrapped. It is cachex.ErrNotFound.
	ErrNotFound = errs.ErrNotFound

	// ErrClosed means that Close was called. It is cachex.ErrClosed.
	ErrClosed = errs.ErrClosed

	// ErrReentrant means that a load waits for itself: it asks for its own key, or
	// for a key whose load waits for it, through any cache of the process. The
	// error is returned at once. A load is recognised by its ctx, so a load must
	// pass its ctx on.
	ErrReentrant = errs.ErrReentrant

	// ErrGoexit means that code of the user called runtime.Goexit instead of
	// returning, as t.FailNow does. The error that wraps it names the code.
	ErrGoexit = guard.ErrGoexit
)

// A PanicError is a panic in code of the user: a load, a codec, a hook. The
// process lives, the lease is released, and every caller gets the same error.
//
// Its fields are Value, the value of the panic, and Stack, the stack of the
// goroutine that panicked, as debug.Stack formats it. If Value is an error,
// errors.Is and errors.As find it.
type PanicError = guard.PanicError
