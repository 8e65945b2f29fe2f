// Package redact makes errors whose text does not show what their cause says:
// some errors of Redis quote the value that they are about.
package redact

// Error returns an error with this text and no more. cause, which may be nil, is
// in its chain for errors.Is and errors.As.
func Error(text string, cause error) error { return &redacted{text, cause} }

type redacted struct {
	text  string
	cause error
}

// Error returns the redacted text.
func (e *redacted) Error() string { return e.text }

// Unwrap returns the error that the text is of.
func (e *redacted) Unwrap() error { return e.cause }
