package writebehind

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/script"
)

var (
	// ErrClosed is the error of every call after Close.
	ErrClosed = errors.New("closed")

	// ErrOutcomeUnknown says that a write was sent and not answered: it may have been
	// carried out, or be carried out yet. It was not sent again, since it would then
	// perhaps count twice.
	ErrOutcomeUnknown = errors.New("outcome unknown")

	// ErrOverflow says that a count would leave int64 before it is persisted. Nothing
	// was added.
	ErrOverflow = errors.New("count overflows")

	errNilContext = errors.New("ctx is nil")
)

// Add adds delta to what is pending of an id. It is for an engine whose Merge is Sum.
// When it returns nil, the delta will be persisted, unless Redis loses it. An error
// other than ErrOutcomeUnknown means that nothing was added.
func (e *Engine) Add(ctx context.Context, id string, delta int64) error {
	return e.write(ctx, "add", Sum, script.PendAdd, id, strconv.FormatInt(delta, 10))
}

// Put replaces what is pending of an id by value. It is for an engine whose Merge is
// Last. When it returns nil, the value will be persisted, unless another one takes its
// place before, or Redis loses it. An error other than ErrOutcomeUnknown means that
// nothing was put.
func (e *Engine) Put(ctx context.Context, id string, value []byte) error {
	return e.write(ctx, "put", Last, script.PendPut, id, value)
}

// Outcome turns the error of a script that writes to what is pending, and was not sent
// twice, into what its caller should know. It wraps err, and ErrOutcomeUnknown or
// ErrOverflow if it is so.
func Outcome(err error) error {
	if err == nil {
		return nil
	}
	if answer, ok := errors.AsType[redis.Error](err); ok {
		switch text := answer.Error(); {
		case strings.Contains(text, "would overflow"):
			return fmt.Errorf("%w: %w", ErrOverflow, err)
		case strings.HasPrefix(text, "ERR Connection ") && !strings.HasSuffix(text, "refused"):
			// A proxy has lost its server, perhaps after it had sent the command.
		default:
			return err // Redis has said no
		}
	} else if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" ||
		errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrPoolExhausted) || errors.Is(err, redis.ErrClosed) {
		return err // it was not sent
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}

func (e *Engine) write(ctx context.Context, op string, m Merge, s *script.Script, id string, arg any) error {
	err := e.open(ctx)
	switch {
	case err == nil && e.o.Merge != m:
		err = errors.New("Options.Merge is not for that")
	case err == nil:
		e.Start()
		c := &script.Call{Script: s, Key: e.Keys(e.Bucket(id)).Pending, Args: []any{Field(id), arg}, Once: true}
		err = Outcome(e.ask(ctx, func(ctx context.Context) error { return c.Run(ctx, e.rdb) }))
	}
	if err != nil {
		return fmt.Errorf("cachex: %s %s: %w", op, printable(e.o.Name+":"+id), err)
	}
	return nil
}

// open returns an error if a call cannot go on.
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

// printable returns s, quoted if a line of a log could not hold it.
func printable(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}
