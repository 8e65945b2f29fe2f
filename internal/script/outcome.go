package script

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/errs"
)

// ErrOutcomeUnknown is errs.ErrOutcomeUnknown.
var ErrOutcomeUnknown = errs.ErrOutcomeUnknown

// Unknown reports whether err wraps ErrOutcomeUnknown.
func Unknown(err error) bool { return errors.Is(err, ErrOutcomeUnknown) }

// Err returns the error of a command. If the command is a [Once] that may have
// been carried out, or may still be, the error wraps ErrOutcomeUnknown.
func Err(cmd redis.Cmder) error { return With(cmd, cmd.Err()) }

// With is like Err for a command that has err in place of its own error.
func With(cmd redis.Cmder, err error) error {
	if o, ok := cmd.(*Once); ok && err != nil && o.unknown() {
		return unknown(err)
	}
	return err
}

// Left returns the error of a command whose caller leaves because of cause,
// while the command is in flight with others.
func Left(cmd redis.Cmder, cause error) error {
	if _, ok := cmd.(*Once); ok {
		return unknown(cause)
	}
	return cause
}

func unknown(err error) error { return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err) }

// Cause returns the error of a call that failed with err. If ctx has ended, it
// is the cause of that end. It wraps ErrOutcomeUnknown if err does.
func Cause(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	if Unknown(err) {
		return unknown(context.Cause(ctx))
	}
	return context.Cause(ctx)
}

// Answered reports whether err, the error of a command, is nil or an answer of
// Redis.
func Answered(err error) bool {
	if err == nil {
		return true
	}
	_, ok := errors.AsType[redis.Error](err)
	return ok
}

// Broken reports whether err says that there was no connection, or that it
// broke. The client has not waited for a timeout, so a second attempt does no
// harm.
func Broken(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	failed, ok := errors.AsType[*net.OpError](err)
	return ok && !failed.Timeout()
}

// definite reports whether err is an answer of Redis itself. A proxy that has
// lost its server may have sent the command before, unless the server refused
// the connection.
func definite(err error) bool {
	answer, ok := errors.AsType[redis.Error](err)
	if !ok {
		return false
	}
	text := answer.Error()
	return !strings.HasPrefix(text, "ERR Connection ") || strings.HasSuffix(text, " refused")
}

// refused reports whether err is an answer of Redis which says that the command
// has not run. It may run later, or on another node.
func refused(err error) bool {
	return redirected(err) || Answered(err) && (redis.IsLoadingError(err) || redis.IsReadOnlyError(err) ||
		redis.IsMasterDownError(err) || redis.IsClusterDownError(err) || redis.IsTryAgainError(err) ||
		redis.IsNoReplicasError(err) || redis.IsMaxClientsError(err) || NotKnown(err))
}

// redirected reports whether err is an answer of Redis which says that another
// node has the slot.
func redirected(err error) bool {
	if err == nil {
		return false
	}
	if _, moved := redis.IsMovedError(err); moved {
		return true
	}
	_, ask := redis.IsAskError(err)
	return ask
}
