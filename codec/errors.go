package codec

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
)

var (
	// ErrFormat says that the bytes are not of this codec, or not whole. Every error
	// of Decode is an ErrFormat.
	ErrFormat = errors.New("codec: bytes of another format")

	// ErrVersion says that the bytes are of another version. See [Version].
	ErrVersion error = &failure{"bytes of another version", []error{ErrFormat}}

	// ErrAuth says that the bytes were sealed under a key that is not known, or for
	// another Redis key, or were changed since. See [Encrypt].
	ErrAuth error = &failure{"bytes that do not authenticate", []error{ErrFormat}}

	// ErrEncode says that the value cannot be encoded. Every error of Append is an
	// ErrEncode.
	ErrEncode = errors.New("codec: value cannot be encoded")

	// ErrTooLarge says that the value or its bytes exceed a limit: of size, of depth or
	// of the memory that decoding would take.
	ErrTooLarge = errors.New("codec: too large")

	// ErrConfig says that the codec can never work as it was made. See [Check].
	ErrConfig = errors.New("codec: misconfigured")

	// ErrNote says that the codec works, and that its user may want to know
	// something about it. See [Check].
	ErrNote = errors.New("codec: note")
)

// failure is every error that this package makes: a message that never quotes
// bytes or values, and what the error is in the sense of errors.Is.
type failure struct {
	msg string
	is  []error
}

// Error returns the message behind the name of the package.
func (f *failure) Error() string { return "codec: " + f.msg }

// Unwrap returns what the error is, for errors.Is and errors.As.
func (f *failure) Unwrap() []error { return f.is }

// badFormat is a failure of Decode, cannotEncode one of Append; cause may be nil.
func badFormat(msg string, cause error) *failure    { return newFailure(msg, ErrFormat, cause) }
func cannotEncode(msg string, cause error) *failure { return newFailure(msg, ErrEncode, cause) }

func newFailure(msg string, kind, cause error) *failure {
	if cause == nil {
		return &failure{msg, []error{kind}}
	}
	return &failure{msg, []error{kind, cause}}
}

func misconfigured(format string, args ...any) *failure {
	return &failure{fmt.Sprintf(format, args...), []error{ErrConfig}}
}

// describe is the part of err's message that cannot hold bytes of the value:
// what other packages say is printed only where it is known to be about types,
// codes and offsets. For instance time.Parse, netip.ParseAddr and strconv.Atoi
// quote their whole input, so a foreign error is named by its type.
func describe(err error) string {
	switch e := err.(type) {
	case *failure:
		return e.msg
	case *json.SyntaxError:
		return fmt.Sprintf("JSON syntax error at offset %d", e.Offset)
	case *json.UnmarshalTypeError:
		what, _, _ := strings.Cut(e.Value, " ") // "number 300": the literal goes
		if e.Field != "" {
			return fmt.Sprintf("JSON %s does not fit field %s of type %s", what, e.Field, e.Type)
		}
		return fmt.Sprintf("JSON %s does not fit %s", what, e.Type)
	case *json.UnsupportedTypeError, *json.UnsupportedValueError: // a type, NaN, a cycle's type
		return err.Error()
	}
	// Only errors that have their text ready are asked for it: others may take
	// their time to quote megabytes.
	name := fmt.Sprintf("%T", err)
	switch pkg, _, _ := strings.Cut(strings.TrimPrefix(name, "*"), "."); pkg {
	case "errors", "fmt", "msgpack":
		if msg := err.Error(); strings.HasPrefix(msg, "msgpack: ") {
			return msg
		}
	}
	return name
}

// describePanic is describe for what a method or function panicked with.
func describePanic(method string, r any) string {
	if e, ok := r.(runtime.Error); ok {
		return fmt.Sprintf("panic in %s: %v", method, e)
	}
	return fmt.Sprintf("panic in %s: %T", method, r)
}

// catchAppend is deferred by Append methods that call code of others. It makes
// a panic an error and, after any error, the result dst as it was given.
func catchAppend(method string, dst []byte, out *[]byte, err *error) {
	switch r := recover().(type) {
	case nil:
	case *failure:
		*err = r
	default:
		cause, _ := r.(error)
		*err = cannotEncode(describePanic(method, r), cause)
	}
	if *err != nil {
		*out = dst
	}
}

// catchDecode is deferred by Decode methods that call code of others. It makes
// a panic an error and, after any error, *v the zero value.
func catchDecode[V any](method string, v *V, err *error) {
	if r := recover(); r != nil {
		cause, _ := r.(error)
		*err = badFormat(describePanic(method, r), cause)
	}
	if *err != nil {
		*v = *new(V)
	}
}

// catchCall is catchDecode for what the caller makes zero after any error.
func catchCall(method string, err *error) {
	if r := recover(); r != nil {
		cause, _ := r.(error)
		*err = badFormat(describePanic(method, r), cause)
	}
}
