// Package guard runs user code, which may panic or call runtime.Goexit, and
// turns either into an error.
//
// It has the only go statement of the module outside tests and tools. User code
// runs on goroutines of this module: hooks and dialers of a client, codecs,
// loads. A panic there would end the user's process, and a Goexit would leave
// callers waiting forever. internal/layers tests that no other package starts a
// goroutine or recovers.
package guard

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Code names user code in errors.
type Code struct {
	of, name string
	quoted   bool
}

// These are the common kinds of user code. An error for a panic of a load or of
// Persist quotes the panic value, since users debug with it. The panic value of
// other code may contain a cached value, which no error shows.
var (
	Load    = Code{name: "load", quoted: true}
	Persist = Code{name: "Persist", quoted: true}
	Client  = Code{name: "client"} // hooks, dialers, and the reply parser
	Codec   = Code{name: "codec"}
)

// Named returns the Code with a name. Its errors show the type of a panic
// value, and not the value.
func Named(name string) Code { return Code{name: name} }

// Of returns the Code with the name of its owner before its own: "owner: name".
func (c Code) Of(owner string) Code {
	c.of = owner
	return c
}

// String returns the name. It is built only when an error is printed: keys are
// rendered too often to pay for it.
func (c Code) String() string {
	if c.of == "" {
		return c.name
	}
	return c.of + ": " + c.name
}

// ErrGoexit says that code called runtime.Goexit, as t.FailNow does, instead of
// returning. The error that wraps it names the code.
var ErrGoexit = errors.New("called runtime.Goexit")

// PanicError is a panic of user code.
type PanicError struct {
	Value any    // passed to panic
	Stack []byte // of the goroutine that panicked, as debug.Stack formats it

	code Code
}

// Error returns one line without the stack. See [Code] for when it shows Value.
func (e *PanicError) Error() string {
	if _, ok := e.Value.(runtime.Error); ok || e.code.quoted {
		return fmt.Sprintf("%v panicked: %v", e.code, e.Value)
	}
	return fmt.Sprintf("%v panicked with a %T", e.code, e.Value)
}

// Unwrap returns the panic value if it is an error, and nil otherwise.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Catch must be deferred directly by a function that calls user code. If the
// function panics, Catch sets *err. It cannot catch a Goexit in the goroutine
// of a caller: see [Run].
func Catch(code Code, err *error) {
	if p := recover(); p != nil {
		*err = &PanicError{p, debug.Stack(), code}
	}
}

// Call calls fn and returns its error, or a *PanicError.
func Call(code Code, fn func() error) (err error) {
	defer Catch(code, &err)
	return fn()
}

// Run calls fn and then calls done once. done gets the error of fn, a
// *PanicError, or an error that wraps ErrGoexit. After a Goexit, done runs
// while the goroutine ends. done must not panic.
func Run(code Code, fn func() error, done func(error)) {
	var err error
	returned := false
	defer func() {
		if !returned {
			err = fmt.Errorf("%v %w", code, ErrGoexit)
		}
		done(err)
	}()
	err = Call(code, fn)
	returned = true
}

// Go is Run in a goroutine. done must release everything that waits for the
// goroutine, so that no caller waits forever.
func Go(code Code, fn func() error, done func(error)) { go Run(code, fn, done) }

// Spawn is Go by an owner, which waits for its goroutines when it is closed.
type Spawn = func(code Code, fn func() error, done func(error))
