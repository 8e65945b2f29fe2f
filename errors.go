package cachex

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cachex-go/cachex/internal/errs"
)

var (
	// ErrNotFound reports that a key has no value. If the source has no value,
	// Spec.Up returns ErrNotFound, perhaps wrapped, and Get returns it too. It
	// is loader.ErrNotFound.
	ErrNotFound = errs.ErrNotFound

	// ErrClosed is the error of every call after Close. It is loader.ErrClosed.
	ErrClosed = errs.ErrClosed

	// ErrOutcomeUnknown reports that a write was sent but not answered. It may
	// have been carried out, or may still be, even after later calls. It was
	// not sent again. Errors of Set, of SetMany, and of writes to counters,
	// collections and gates wrap it.
	ErrOutcomeUnknown = errs.ErrOutcomeUnknown

	errNilContext = errors.New("ctx is nil")
)

// Error is the error of one call on a Cache. Its text has the form
//
//	cachex: get users:42: not found
//
// The text names the key and never the value, unless Err, such as an error of
// Spec.Up, contains it.
type Error struct {
	Op    string // OpGet, OpSet …
	Cache string // the name of the cache, "" if it has none
	Key   string // the key in Redis; "" if the call has no key, or the key could not be rendered
	Err   error
}

// Error returns the text of the error. The key is quoted if it has unprintable
// characters, so it never breaks the line.
func (e *Error) Error() string {
	on := e.Key
	if on == "" {
		on = e.Cache
	}
	if !utf8.ValidString(on) || strings.ContainsFunc(on, func(r rune) bool { return !strconv.IsPrint(r) }) {
		on = strconv.Quote(on)
	}
	if on != "" {
		on = " " + on
	}
	return "cachex: " + e.Op + on + ": " + errs.Text(e.Err)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }
