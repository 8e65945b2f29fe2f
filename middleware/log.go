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
	// Message is the message of the records, the name of the function for instance.
	// Defaults to "call".
	Message string

	// Level returns the level of the record of a call that has returned err, or nil.
	// It must be safe for concurrent use. Defaults to slog.LevelInfo for nil,
	// ErrNotFound of package loader, and context.Canceled, and slog.LevelError for
	// everything else.
	Level func(err error) slog.Level

	// HideKey keeps the key out of the records. As errors name keys, their text is
	// left out with it: "err" is then what the error is known to be, "not found" for
	// instance, and the types in its chain. Keys whose type is a slog.LogValuer decide
	// for themselves what "key" shows; errors know nothing of that. Defaults to false.
	HideKey bool
}

// errNoReturn is what is logged of an f that has not returned. The value of a panic
// may quote anything.
var errNoReturn = errors.New("it panicked, or called runtime.Goexit")

// Log writes one record of each call to l when it has ended: "key", how long it
// took as "took", and the error, if there is one, as "err"; never the value. The
// record of a call that panicked is written while the panic passes through.
//
// If l is nil it is slog.Default() at the time of the call. It takes one
// LogOptions at most.
func Log[K comparable, V any](l *slog.Logger, options ...LogOptions) Middleware[K, V] {
	var o LogOptions
	switch len(options) {
	case 0:
	case 1:
		o = options[0]
	default:
		refuse("Log", "%d LogOptions are given, one is the most", len(options))
	}
	if o.Message == "" {
		o.Message = "call"
	}
	if o.Level == nil {
		o.Level = level
	}
	return func(f Func[K, V]) Func[K, V] {
		given("Log", "f", f)
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

// known has the errors of which the text may be shown, whatever wraps them.
var known = []error{errNoReturn, errs.ErrNotFound, errs.ErrClosed, errs.ErrReentrant, ErrOpen, context.Canceled, context.DeadlineExceeded}

// describe returns what err is, and nothing of its text: what it is known to be,
// and the types of its chain.
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
