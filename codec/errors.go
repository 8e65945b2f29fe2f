package codec

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
)

var (
	// ErrFormat says that the bytes are not of this codec, or are incomplete.
	// Every error of Decode is an ErrFormat.
	ErrFormat = errors.New("codec: bytes of another format")

	// ErrVersion says that the bytes are of another version. See [Version].
	ErrVersion error = &failure{"bytes of another version", []error{ErrFormat}}

	// ErrAuth says that the bytes were sealed under an unknown key, or for
	// another Redis key, or were changed since. See [Encrypt].
	ErrAuth error = &failure{"bytes that do not authenticate", []error{ErrFormat}}

	// ErrEncode says that the value cannot be encoded. Every error of Append is
	// an ErrEncode.
	ErrEncode = errors.New("codec: value cannot be encoded")

	// ErrTooLarge says that the value or its bytes exceed a limit on size,
	// depth, or the memory needed to decode.
	ErrTooLarge = errors.New("codec: too large")

	// ErrConfig says that the codec can never work with its type and settings.
	// See [Check].
	ErrConfig = errors.New("codec: misconfigured")

	// ErrNote says that the codec works but may surprise its user. See [Check].
	ErrNote = errors.New("codec: note")
)

// failure is the type of all errors of this package. msg never quotes bytes or
// values. is lists the errors that errors.Is matches.
type failure struct {
	msg string
	is  []error
}

// Error returns the message after the name of the package.
func (f *failure) Error() string { return "codec: " + f.msg }

// Unwrap returns the wrapped errors, for errors.Is and errors.As.
func (f *failure) Unwrap() []error { return f.is }

// badFormat makes an error of Decode, cannotEncode one of Append. cause may be
// nil.
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

// describe returns the part of err's message that cannot hold bytes of the
// value. The text of a foreign error is used only if it is known to be about
// types, codes and offsets. time.Parse, netip.ParseAddr and strconv.Atoi, for
// instance, quote their whole input, so other foreign errors are named by their
// type.
func describe(err error) string {
	switch e := err.(type) {
	case *failure:
		return e.msg
	case *json.SyntaxError:
		return fmt.Sprintf("JSON syntax error at offset %d", e.Offset)
	case *json.UnmarshalTypeError:
		what, _, _ := strings.Cut(e.Value, " ") // drops the literal of "number 300"
		if e.Field != "" {
			return fmt.Sprintf("JSON %s does not fit field %s of type %s", what, e.Field, e.Type)
		}
		return fmt.Sprintf("JSON %s does not fit %s", what, e.Type)
	case *json.UnsupportedTypeError, *json.UnsupportedValueError: // a type, NaN, a cycle's type
		return err.Error()
	}
	// Error is called only on errors whose text is ready: others may take time
	// to quote megabytes.
	name := fmt.Sprintf("%T", err)
	switch pkg, _, _ := strings.Cut(strings.TrimPrefix(name, "*"), "."); pkg {
	case "errors", "fmt", "msgpack":
		if msg := err.Error(); strings.HasPrefix(msg, "msgpack: ") {
			return msg
		}
	}
	return name
}

// describePanic is describe for a recovered panic of a method or function.
func describePanic(method string, r any) string {
	if e, ok := r.(runtime.Error); ok {
		return fmt.Sprintf("panic in %s: %v", method, e)
	}
	return fmt.Sprintf("panic in %s: %T", method, r)
}

// catchAppend is deferred by Append methods that call user code. It turns a
// panic into an error. After any error it restores dst as the result.
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

// catchDecode is deferred by Decode methods that call user code. It turns a
// panic into an error. After any error it sets *v to the zero value.
func catchDecode[V any](method string, v *V, err *error) {
	if r := recover(); r != nil {
		cause, _ := r.(error)
		*err = badFormat(describePanic(method, r), cause)
	}
	if *err != nil {
		*v = *new(V)
	}
}

// catchCall is catchDecode for callers that set the value to zero themselves
// after any error.
func catchCall(method string, err *error) {
	if r := recover(); r != nil {
		cause, _ := r.(error)
		*err = badFormat(describePanic(method, r), cause)
	}
}
