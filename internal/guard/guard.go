// Package guard runs code of users, which may panic or call runtime.Goexit, and
// makes an error of either.
//
// It has the only go statement of the module outside tests and tools. Code that is
// not ours runs on goroutines that are ours: hooks and dialers of a client, codecs,
// loads. A panic there would end the process of a user, and a Goexit would leave
// callers waiting for ever. internal/layers tests that nothing else starts a
// goroutine or recovers.
package guard

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Code names code of users in errors.
type Code struct {
	of, name string
	quoted   bool
}

// The code that most calls run. A panic of a load or of Persist is quoted by its
// value, as users debug by it. That of other code may be made of a cached value,
// which no error shows.
var (
	Load    = Code{name: "load", quoted: true}
	Persist = Code{name: "Persist", quoted: true}
	Client  = Code{name: "client"} // hooks, dialers, and the parser of replies
	Codec   = Code{name: "codec"}
)

// Named returns the Code of a name. The text of its errors has the type of what it
// panics with, and not the value.
func Named(name string) Code { return Code{name: name} }

// Of returns the Code with the name of its owner before its own: "owner: name".
func (c Code) Of(owner string) Code {
	c.of = owner
	return c
}

// String returns the name. It is made when an error is printed: keys are rendered
// too often to pay for it.
func (c Code) String() string {
	if c.of == "" {
		return c.name
	}
	return c.of + ": " + c.name
}

// ErrGoexit says that code called runtime.Goexit, as t.FailNow does, instead of
// returning. The error that wraps it names the code.
var ErrGoexit = errors.New("called runtime.Goexit")

// A PanicError is a panic of code of a user.
type PanicError struct {
	Value any    // of panic
	Stack []byte // of the goroutine that panicked, as debug.Stack formats it

	code Code
}

// Error returns one line without the stack. See Code for what it shows of Value.
func (e *PanicError) Error() string {
	if _, ok := e.Value.(runtime.Error); ok || e.code.quoted {
		return fmt.Sprintf("%v panicked: %v", e.code, e.Value)
	}
	return fmt.Sprintf("%v panicked with a %T", e.code, e.Value)
}

// Unwrap returns the value of the panic if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Catch is deferred, as it stands, by a function that calls code of a user. It sets
// *err if the function panics. Nothing can catch a Goexit in the goroutine of a
// caller: see [Run].
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

// Run calls fn and then done, once, with the error of fn, a *PanicError, or an error
// that wraps ErrGoexit. After a Goexit, done runs while the goroutine ends. done must
// not panic.
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

// Go is Run in a goroutine. What waits for the goroutine is for done to release, so
// that nothing waits for ever.
func Go(code Code, fn func() error, done func(error)) { go Run(code, fn, done) }

// A Spawn is Go by an owner, which waits for its goroutines when it is closed.
type Spawn = func(code Code, fn func() error, done func(error))
