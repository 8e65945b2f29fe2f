package script

import (
	"errors"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// ErrOutcomeUnknown says that the reply of Redis was lost. What was asked for may
// have been carried out, or may still be.
var ErrOutcomeUnknown = errors.New("outcome unknown")

// Unknown reports whether after this error, of a command that the client does not
// repeat, nobody knows what Redis has done, or will do.
func Unknown(err error) bool {
	if err == nil {
		return false
	}
	if answer, ok := errors.AsType[redis.Error](err); ok {
		// It is Redis that refuses, unless it is twemproxy that has lost Redis.
		return strings.HasPrefix(answer.Error(), "ERR Connection ")
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return false
	}
	return !errors.Is(err, redis.ErrClosed) && !errors.Is(err, redis.ErrPoolTimeout)
}
