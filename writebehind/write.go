package writebehind

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/errs"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

var (
	// ErrClosed is the error of every call after Close.
	ErrClosed = errors.New("closed")

	// ErrOutcomeUnknown says that a write was sent and not answered: Redis may
	// have executed it, or may still do so. The write was not sent again,
	// because it could then count twice.
	ErrOutcomeUnknown = errs.ErrOutcomeUnknown

	// ErrOverflow says that a count would leave int64 before it is persisted.
	// Nothing was added.
	ErrOverflow = errors.New("count overflows")

	errNilContext = errors.New("ctx is nil")
)

// Add adds delta to the pending delta of an id. It is for an engine whose Merge
// is Sum. If Add returns nil, the delta will be persisted unless Redis loses
// it. An error other than ErrOutcomeUnknown means that nothing was added.
func (e *Engine) Add(ctx context.Context, id string, delta int64) error {
	return e.write(ctx, "add", Sum, script.PendAdd, id, strconv.FormatInt(delta, 10))
}

// Put replaces the pending value of an id. It is for an engine whose Merge is
// Last. If Put returns nil, the value will be persisted unless a later Put
// replaces it first or Redis loses it. An error other than ErrOutcomeUnknown
// means that nothing was put. The caller may change value as soon as Put
// returns.
func (e *Engine) Put(ctx context.Context, id string, value []byte) error {
	if ctx != nil && ctx.Done() != nil {
		value = bytes.Clone(value) // the client may still be sending it when ctx has ended
	}
	return e.write(ctx, "put", Last, script.PendPut, id, value)
}

// Outcome maps the error of a script that writes pending ids. The result wraps
// ErrOutcomeUnknown if err does, and ErrOverflow if Redis reports an overflow.
func Outcome(err error) error {
	if answer, ok := errors.AsType[redis.Error](err); ok && strings.Contains(answer.Error(), "would overflow") {
		return fmt.Errorf("%w: %w", ErrOverflow, err)
	}
	return err
}

var errWritten = errors.New("unexpected reply of a script")

// Written is Outcome for a script whose only reply is 1. If the reply is
// anything else, as from a broken proxy, the error is ErrOutcomeUnknown.
func Written(reply any, err error) error {
	if err == nil && reply != int64(1) {
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, errWritten)
	}
	return Outcome(err)
}

func (e *Engine) write(ctx context.Context, op string, m Merge, s *script.Script, id string, arg any) error {
	err := e.open(ctx)
	switch {
	case err == nil && e.o.Merge != m:
		err = errors.New("Options.Merge is not for that")
	case err == nil:
		e.Start()
		c := &script.Call{Script: s, Key: e.Keys(e.Bucket(id)).Pending, Args: []any{Field(id), arg}}
		start := func(code guard.Code, fn func() error, done func(error)) {
			if !e.spawn(code, fn, done) {
				guard.Run(code, fn, done)
			}
		}
		convoy.RunOrLeave(ctx, e.rdb, forever, start, []*script.Call{c}, func(ctx context.Context, sent []*script.Call) {
			_ = sent[0].Run(ctx, e.rdb) // the error is in the call
		})
		err = Written(c.Reply, c.Err)
	}
	if err != nil {
		return fmt.Errorf("cachex: %s %s: %w", op, printable(e.o.Name+":"+id), err)
	}
	return nil
}

const forever time.Duration = 1<<63 - 1

// open returns an error if the engine is closed, or if ctx is nil or has ended.
func (e *Engine) open(ctx context.Context) error {
	if ctx == nil {
		return errNilContext
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	return nil
}

// printable returns s, quoted if it does not fit in a line of a log.
func printable(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}
