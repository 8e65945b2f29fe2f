package circuit

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// evidence is what the end of a call says about Redis.
type evidence int

const (
	moot     evidence = iota // nothing
	answered                 // it is there
	failed                   // it may be away
	refused                  // it is away
)

// lull is how long a caller must have waited in vain for its leaving to say
// something about Redis.
const lull = 100 * time.Millisecond

// weigh returns what err says, with which a call ended that began at began.
//
// A caller who leaves says nothing about Redis, unless it had waited for a while:
// where all of them have deadlines that are shorter than the client's timeouts,
// or than its retries, nobody ever sees another error, however long Redis is
// away. If began is zero, leaving is moot.
func weigh(ctx context.Context, began time.Time, err error) evidence {
	if err == nil || err == redis.Nil {
		return answered
	}
	if errors.Is(err, ErrAway) || errors.Is(err, redis.ErrClosed) {
		return moot
	}
	if reply, ok := errors.AsType[redis.Error](err); ok {
		return weighReply(reply)
	}
	if left(ctx, err) {
		if !began.IsZero() && time.Since(began) >= lull {
			return failed
		}
		return moot
	}
	// That of the dial itself, and of the last one if the pool dials no more.
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return refused
	}
	return failed
}

// left reports whether err says merely that a caller has left. A cancelled ctx
// need not be ours: commands that the client joins fail together.
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

// weighReply returns what an error says that Redis itself has replied. That is
// nearly always that it is there, and does not want this command. The exceptions
// are those that every read would get, and after the client has tried it again
// for a while. TRYAGAIN is none of them: only commands of several keys get it.
// MOVED and ASK are answers of other nodes than the one that has the key.
func weighReply(reply redis.Error) evidence {
	text := strings.TrimPrefix(reply.Error(), "ERR ")
	if strings.HasPrefix(text, "MOVED ") || strings.HasPrefix(text, "ASK ") {
		return moot
	}
	for _, prefix := range []string{"LOADING ", "MASTERDOWN ", "CLUSTERDOWN ", "max number of clients reached"} {
		if strings.HasPrefix(text, prefix) {
			return failed
		}
	}
	return answered
}
