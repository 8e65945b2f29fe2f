package cachex

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cachex-go/cachex/internal/errs"
)

var (
	// ErrNotFound says that there is no value for a key. Spec.Up returns it,
	// perhaps wrapped, if the source has none, and Get then returns it too. It is
	// loader.ErrNotFound.
	ErrNotFound = errs.ErrNotFound

	// ErrClosed is the error of every call after Close. It is loader.ErrClosed.
	ErrClosed = errs.ErrClosed

	// ErrOutcomeUnknown says that a write was sent and not answered: it may have been
	// carried out, or may be yet, even after later calls. It was not sent again. Errors of
	// Set, SetMany, and of the writes of counters, collections and gates wrap it.
	ErrOutcomeUnknown = errs.ErrOutcomeUnknown

	errNilContext = errors.New("ctx is nil")
)

// An Error is the error of one call on a Cache. Its text is
//
//	cachex: get users:42: not found
//
// It names the key and never the value, unless Err, which may be the error of
// Spec.Up, does.
type Error struct {
	Op    string // OpGet, OpSet …
	Cache string // the name of the cache, "" if it has none
	Key   string // the key in Redis; "" if the call has none, or it could not be made
	Err   error
}

// Error returns the text of the error, in one line as far as the key goes.
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
