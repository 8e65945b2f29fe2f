package circuit

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// evidence is the conclusion from the outcome of a call.
type evidence int

const (
	neutral  evidence = iota // no conclusion
	success                  // Redis is available
	failure                  // Redis may be unavailable
	definite                 // Redis is unavailable
)

// minWait is the time that a caller must have waited before its leaving counts as
// a failure.
const minWait = 100 * time.Millisecond

// classify returns the evidence of err, the outcome of a call that began at began.
//
// A caller that leaves early is no evidence about Redis, but one that has
// waited for a while is. If all deadlines are shorter than the client's
// timeouts, or its retries, callers never see another error, however long Redis
// is down. If began is zero, leaving is neutral.
func classify(ctx context.Context, began time.Time, err error) evidence {
	if err == nil || err == redis.Nil {
		return success
	}
	if errors.Is(err, ErrAway) || errors.Is(err, redis.ErrClosed) {
		return neutral
	}
	if reply, ok := errors.AsType[redis.Error](err); ok {
		return classifyReply(reply)
	}
	if left(ctx, err) {
		if !began.IsZero() && time.Since(began) >= minWait {
			return failure
		}
		return neutral
	}
	// It is the error of the dial, or of the last dial if the pool has stopped
	// dialling.
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return definite
	}
	return failure
}

// left reports whether err only means that a caller has left. A cancelled ctx
// need not be this one: commands that the client sends together fail together.
func left(ctx context.Context, err error) bool {
	switch {
	case errors.Is(err, context.Canceled):
		return true
	case ctx.Err() == nil:
		return false
	default:
		return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Cause(ctx))
	}
}

// classifyReply returns the evidence of an error that Redis has replied. It nearly
// always means that Redis is available, and rejects this command. The
// exceptions are errors that every read would get, and that persist through the
// client's retries. TRYAGAIN is not one of them: only commands of several keys
// get it. MOVED and ASK come from other nodes than the owner of the key.
func classifyReply(reply redis.Error) evidence {
	text := strings.TrimPrefix(reply.Error(), "ERR ")
	if strings.HasPrefix(text, "MOVED ") || strings.HasPrefix(text, "ASK ") {
		return neutral
	}
	for _, prefix := range []string{"LOADING ", "MASTERDOWN ", "CLUSTERDOWN ", "max number of clients reached"} {
		if strings.HasPrefix(text, prefix) {
			return failure
		}
	}
	return success
}
