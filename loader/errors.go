package loader

import (
	"github.com/cachex-go/cachex/internal/errs"
	"github.com/cachex-go/cachex/internal/guard"
)

var (
	// ErrNotFound says that the source has no value for a key. A load returns it,
	// perhaps wrapped.
	ErrNotFound = errs.ErrNotFound

	// ErrClosed says that Close was called.
	ErrClosed = errs.ErrClosed

	// ErrReentrant says that a load would have waited for itself: it asked for the
	// key that it loads, or for one whose load waits for it, through whatever
	// caches of the process. It is found at once, by the ctx of the load, so a
	// load must pass its ctx on.
	ErrReentrant = errs.ErrReentrant

	// ErrGoexit says that a load, or other code of a user, called runtime.Goexit, as
	// t.FailNow does, instead of returning. The error that wraps it names the code.
	ErrGoexit = guard.ErrGoexit
)

// A PanicError is a panic of a load, or of other code of a user that runs on a
// goroutine of the Loader. The process lives, the lease is given back, and every
// caller gets the same error. Its fields are Value, of the panic, and Stack, of the
// goroutine that panicked, as debug.Stack formats it. errors.Is and errors.As find
// Value if that is an error.
type PanicError = guard.PanicError
