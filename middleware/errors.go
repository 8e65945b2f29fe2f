package middleware

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cachex-go/cachex/internal/errs"
)

// callError is the error of a wrapper about one call. Its text is made when it
// is read: an open breaker returns many errors, and few are read.
type callError[K comparable] struct {
	op  string
	key K
	err error
}

func failed[K comparable](op string, key K, err error) error {
	return &callError[K]{op: op, key: key, err: err}
}

// Error returns the text of the error; the key takes one line.
func (e *callError[K]) Error() string {
	key := ""
	if any(e.key) != any(struct{}{}) { // a function without arguments has no key
		key = fmt.Sprint(e.key)
		if !utf8.ValidString(key) || strings.ContainsFunc(key, func(r rune) bool { return !strconv.IsPrint(r) }) {
			key = strconv.Quote(key)
		}
		key = " " + key
	}
	return "cachex: " + e.op + key + ": " + errs.Text(e.err)
}

// Unwrap returns the cause.
func (e *callError[K]) Unwrap() error { return e.err }
