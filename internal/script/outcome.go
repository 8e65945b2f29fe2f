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
// been carried out, or may be yet, the error wraps ErrOutcomeUnknown.
func Err(cmd redis.Cmder) error { return With(cmd, cmd.Err()) }

// With is Err of a command that has err in place of its own error.
func With(cmd redis.Cmder, err error) error {
	if o, ok := cmd.(*Once); ok && err != nil && o.unknown() {
		return unknown(err)
	}
	return err
}

// Left returns the error of a command whose caller leaves, because of cause,
// while the command is under way with others.
func Left(cmd redis.Cmder, cause error) error {
	if _, ok := cmd.(*Once); ok {
		return unknown(cause)
	}
	return cause
}

func unknown(err error) error { return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err) }

// Cause returns the error of a call that failed with err: the cause of the end
// of ctx if ctx has ended. It wraps ErrOutcomeUnknown if err does.
func Cause(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	if Unknown(err) {
		return unknown(context.Cause(ctx))
	}
	return context.Cause(ctx)
}

// Answered reports whether err, of a command, is nil or an answer of Redis.
func Answered(err error) bool {
	if err == nil {
		return true
	}
	_, ok := errors.AsType[redis.Error](err)
	return ok
}

// Broken reports whether err says that there was no connection, or that it broke: the
// client has not waited in vain, so to ask again does no harm.
func Broken(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	failed, ok := errors.AsType[*net.OpError](err)
	return ok && !failed.Timeout()
}

// definite reports whether err is an answer of Redis itself. A proxy that has
// lost its server may have sent the command before; unless the server refused
// the connection.
func definite(err error) bool {
	answer, ok := errors.AsType[redis.Error](err)
	if !ok {
		return false
	}
	text := answer.Error()
	return !strings.HasPrefix(text, "ERR Connection ") || strings.HasSuffix(text, " refused")
}

// refused reports whether err is an answer of Redis that it has not run the
// command, and may run it another time, or on another node.
func refused(err error) bool {
	return redirected(err) || Answered(err) && (redis.IsLoadingError(err) || redis.IsReadOnlyError(err) ||
		redis.IsMasterDownError(err) || redis.IsClusterDownError(err) || redis.IsTryAgainError(err) ||
		redis.IsNoReplicasError(err) || redis.IsMaxClientsError(err) || NotKnown(err))
}

// redirected reports whether err is an answer of Redis that another node has the
// slot.
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
