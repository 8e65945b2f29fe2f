// Package redact makes errors whose text does not show what their cause says:
// panics of a user's code and some errors of Redis quote the value that they are
// about.
package redact

import "fmt"

// Error returns an error with this text and no more. cause, which may be nil, is
// in its chain for errors.Is and errors.As.
func Error(text string, cause error) error { return &redacted{text, cause} }

// Panic returns the error for code, named by what, that panicked with value. The
// text has the type of value alone; a value that is an error is in the chain.
func Panic(what string, value any) error {
	cause, _ := value.(error)
	return Error(fmt.Sprintf("%s panicked with a %T", what, value), cause)
}

type redacted struct {
	text  string
	cause error
}

// Error returns the text without what was redacted.
func (e *redacted) Error() string { return e.text }

// Unwrap returns the error that the text is of.
func (e *redacted) Unwrap() error { return e.cause }
