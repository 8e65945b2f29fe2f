package middleware

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/cachex-go/cachex/internal/errs"
)

// LogOptions describe a Log.
type LogOptions struct {
	// Message is the message of the records, for example the name of the
	// function. Defaults to "call".
	Message string

	// Level returns the level of the record of a call that returned err, or
	// nil. It must be safe for concurrent use. Defaults to slog.LevelInfo for
	// nil, loader.ErrNotFound and context.Canceled, and slog.LevelError for all
	// other errors.
	Level func(err error) slog.Level

	// HideKey keeps the key out of the records. Since errors name keys, it also
	// drops their text: "err" then shows the known errors in the chain, for
	// example "not found", and the types of the chain. If the key type is a
	// slog.LogValuer, it decides what "key" shows, but not what errors show.
	// Defaults to false.
	HideKey bool
}

// errNoReturn is logged if f has not returned. The value of a panic is not
// logged, since it may quote anything.
var errNoReturn = errors.New("panicked or called runtime.Goexit")

// Log writes one record of each call to l when the call has ended. The record
// has the key as "key", the duration as "took", and a non-nil error as "err";
// never the value. If the call panics, the record is written while the panic
// passes through.
//
// If l is nil, Log uses slog.Default() at the time of the call. It takes at
// most one LogOptions.
func Log[K comparable, V any](l *slog.Logger, options ...LogOptions) Middleware[K, V] {
	var o LogOptions
	switch len(options) {
	case 0:
	case 1:
		o = options[0]
	default:
		panicf("Log", "got %d LogOptions, want at most one", len(options))
	}
	if o.Message == "" {
		o.Message = "call"
	}
	if o.Level == nil {
		o.Level = level
	}
	return func(f Func[K, V]) Func[K, V] {
		mustNotBeNil("Log", "f", f)
		return func(ctx context.Context, key K) (v V, err error) {
			began := time.Now()
			err = errNoReturn
			defer func() { write(ctx, l, &o, key, time.Since(began), err) }()
			v, err = f(ctx, key)
			return v, err
		}
	}
}

// write writes the record of a call.
func write[K comparable](ctx context.Context, l *slog.Logger, o *LogOptions, key K, took time.Duration, err error) {
	if l == nil {
		l = slog.Default()
	}
	level := o.Level(err)
	if !l.Enabled(ctx, level) {
		return
	}
	var room [3]slog.Attr
	attrs := room[:0]
	if !o.HideKey {
		attrs = append(attrs, slog.Any("key", key))
	}
	attrs = append(attrs, slog.Duration("took", took))
	switch {
	case err == nil:
	case o.HideKey:
		attrs = append(attrs, slog.String("err", describe(err)))
	default:
		attrs = append(attrs, slog.Any("err", err))
	}
	l.LogAttrs(ctx, level, o.Message, attrs...)
}

// level is the default of LogOptions.Level.
func level(err error) slog.Level {
	if err == nil || errors.Is(err, errs.ErrNotFound) || errors.Is(err, context.Canceled) {
		return slog.LevelInfo
	}
	return slog.LevelError
}

// known lists the errors whose text may be shown, whatever wraps them.
var known = []error{errNoReturn, errs.ErrNotFound, errs.ErrClosed, errs.ErrReentrant, ErrOpen, context.Canceled, context.DeadlineExceeded}

// describe returns the known errors in the chain of err, and the types of the
// chain, but no text of err.
func describe(err error) string {
	var words []string
	for _, k := range known {
		if errors.Is(err, k) {
			words = append(words, k.Error())
		}
	}
	var types []string
	for e := err; e != nil; e = errors.Unwrap(e) {
		types = append(types, fmt.Sprintf("%T", e))
	}
	return strings.Join(append(words, "("+strings.Join(types, ": ")+")"), ", ")
}
