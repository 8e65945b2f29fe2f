// Package convoy is the round trips that several parties share: those of a batch, or
// of the flights of many keys.
package convoy

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// Most is how many commands go out in one pipeline, and how many keys in one MGET,
// which counts for as many commands, as an HMGET counts for its fields. A command may
// have a method Weight, which tells for how many it counts. A server answers no other
// client while it works one off.
const Most = 500

// Send sends the commands that are queued on all, in one round trip for each Most, or
// two, and has the client spread them over the nodes of a Cluster. Every command has its
// own reply or error. Send returns an error only if none of them was answered.
func Send(ctx context.Context, rdb redis.UniversalClient, all redis.Pipeliner) error {
	cmds := all.Cmds()
	all.Discard()
	err, _ := sendAll(cmds, func(cmds []redis.Cmder) (sent, error) { return send(ctx, rdb, cmds), nil })
	return err
}

// SendOrLeave is Send for a caller that leaves as Leave does: when ctx is done, or d
// after a round trip began that was not answered. Then the commands may still be
// under way, and must not be looked at.
func SendOrLeave(ctx context.Context, rdb redis.UniversalClient, d time.Duration, start guard.Spawn, all redis.Pipeliner) error {
	cmds := all.Cmds()
	all.Discard()
	err, _ := sendAll(cmds, leaving(ctx, rdb, d, start))
	return err
}

// leaving returns a trip of SendOrLeave.
func leaving(ctx context.Context, rdb redis.UniversalClient, d time.Duration, start guard.Spawn) func([]redis.Cmder) (sent, error) {
	return func(cmds []redis.Cmder) (sent, error) {
		return Leave(ctx, d, start, func(ctx context.Context) (sent, error) { return send(ctx, rdb, cmds), nil })
	}
}

// sendAll sends cmds by trip, which takes one round trip. It returns an error if none of
// them was answered, or trip has left.
func sendAll(cmds []redis.Cmder, trip func([]redis.Cmder) (sent, error)) (failed error, left bool) {
	answered := false
	for some := range loads(cmds) {
		one, err := trip(some)
		if err != nil {
			return err, true
		}
		if answered = answered || one.answered; one.failed != nil {
			failed = one.failed
		}
	}
	if answered {
		failed = nil
	}
	return failed, false
}

// A sent is what became of the commands of one round trip.
type sent struct {
	answered bool  // at least one of them was
	failed   error // of one that was not
}

// send sends commands in one round trip.
func send(ctx context.Context, rdb redis.UniversalClient, cmds []redis.Cmder) (one sent) {
	if script.Exec(ctx, rdb, cmds) == nil {
		return sent{answered: true}
	}
	for _, c := range cmds {
		if err := c.Err(); script.Answered(err) {
			one.answered = true
		} else {
			one.failed = err
		}
	}
	return one
}

// loads returns cmds in lots of as many as go out together.
func loads(cmds []redis.Cmder) iter.Seq[[]redis.Cmder] {
	return func(yield func([]redis.Cmder) bool) {
		from, sum := 0, 0
		for i, c := range cmds {
			weight := 1
			if c.Name() == "hmget" {
				weight = len(c.Args()) - 2
			}
			if w, ok := c.(interface{ Weight() int }); ok {
				weight = w.Weight()
			}
			if sum += weight; sum > Most && i > from {
				if !lots(cmds[from:i], yield) {
					return
				}
				from, sum = i, weight
			}
		}
		if from < len(cmds) {
			lots(cmds[from:], yield)
		}
	}
}

// lots yields the [script.Lots] of cmds, and reports whether to go on.
func lots(cmds []redis.Cmder, yield func([]redis.Cmder) bool) bool {
	for some := range script.Lots(cmds, len(cmds), redis.Cmder.Args) {
		if !yield(some) {
			return false
		}
	}
	return true
}

// Leave runs fn, which calls Redis, by start, in a goroutine that start sees to, and
// returns what fn returns; but it leaves when ctx is done, or after d without an
// answer: the client heeds neither while it reads. Whoever leaves does not know
// what fn did, or will do, and must not touch what it writes to.
//
// A ctx that never ends is one whose owner waits: then fn is called by the caller
// himself, and takes as long as the client does. To hand it over costs two switches of
// goroutines, which is a good part of a round trip.
//
// If fn panics or calls runtime.Goexit, Leave returns that as the error, see package
// guard.
func Leave[T any](ctx context.Context, d time.Duration, start guard.Spawn, fn func(context.Context) (T, error)) (v T, err error) {
	if ctx.Done() == nil {
		defer guard.Catch(guard.Client, &err)
		return fn(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d, ErrSilent)
	defer cancel()
	type answer struct {
		v   T
		err error
	}
	ch := make(chan answer, 1)
	var a answer // until it is sent, of the goroutine of fn
	start(guard.Client, func() (err error) { a.v, err = fn(ctx); return err }, func(err error) {
		a.err = err
		ch <- a
	})
	select {
	case a := <-ch:
		return a.v, a.err
	case <-ctx.Done():
		return v, context.Cause(ctx)
	}
}

// leave is Leave for calls that take any number of round trips. fn calls begins when one
// begins, and leave leaves d after the last of these, or if there was none. begins is nil
// if the caller waits for as long as it takes.
func leave(ctx context.Context, d time.Duration, start guard.Spawn, fn func(ctx context.Context, begins func())) (err error) {
	if ctx.Done() == nil {
		defer guard.Catch(guard.Client, &err)
		fn(ctx, nil)
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.NewTimer(d)
	defer silent.Stop()
	trips, ch := make(chan struct{}, 1), make(chan error, 1)
	begins := func() {
		select {
		case trips <- struct{}{}:
		default: // it has not been heard of the one before
		}
	}
	start(guard.Client, func() error { fn(ctx, begins); return nil }, func(err error) { ch <- err })
	for {
		select {
		case err := <-ch:
			return err
		case <-trips:
			silent.Reset(d)
		case <-silent.C:
			select {
			case <-trips: // one began at this moment
				silent.Reset(d)
			default:
				return ErrSilent
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// RunOrLeave runs calls by run, which takes one round trip, and leaves as Leave does.
// It sets their replies and errors: run gets copies, which the client may write to
// after the caller has left. Of calls that are sent once, the error then says what
// Redis may have done, or may do.
func RunOrLeave(ctx context.Context, rdb redis.UniversalClient, d time.Duration, start guard.Spawn, calls []*script.Call, run func(context.Context, []*script.Call)) {
	copies := copied(ctx, rdb, calls)
	_, err := Leave(ctx, d, start, func(ctx context.Context) (struct{}, error) {
		run(ctx, copies)
		return struct{}{}, nil
	})
	took(calls, copies, err)
}

// copied returns calls for the client to write to.
func copied(ctx context.Context, rdb redis.UniversalClient, calls []*script.Call) []*script.Call {
	copies := make([]*script.Call, len(calls))
	for i, c := range calls {
		one := *c
		copies[i] = &one
	}
	if ctx.Done() != nil {
		script.Leaving(rdb, copies, Most)
	}
	return copies
}

// took gives calls what their copies were answered; or, if the caller has left because
// of err, what that means for each.
func took(calls, copies []*script.Call, err error) {
	for i, c := range calls {
		if err != nil {
			c.Reply, c.Err = nil, copies[i].Left(err)
		} else {
			c.Reply, c.Err = copies[i].Reply, copies[i].Err
		}
	}
}

// ErrSilent is the cause of leaving for want of an answer.
var ErrSilent = errors.New("Redis did not answer in time")

// Silence returns how long Redis may take to answer one round trip of a source whose
// leases hold for ttl.
func Silence(ttl time.Duration) time.Duration { return max(ttl, time.Second) }

// Loading is what a source that loads can do beside being asked, which has it take
// part in a Convoy. Take and Load are called in this order, by one goroutine, and again
// as long as there are commands that have not ended.
type Loading interface {
	// Take takes what those of the commands were answered that have ended since the last
	// Take. All were sent at a time. ended is called with the index of a command, of
	// those that Ask has queued, and reports whether it has ended. If its err is not
	// nil, that is what became of the command, which must not be looked at.
	Take(sent time.Time, ended Ended)

	// Load begins to load what was not there, and does not wait for it. It is called
	// after each Take.
	Load(c *Convoy)

	// Silence returns how long Redis may take to answer one round trip.
	Silence() time.Duration

	// Away returns why Redis was not asked, or did not answer.
	Away() error

	// Spawn is guard.Go in a goroutine that the source waits for when it is closed.
	Spawn(code guard.Code, fn func() error, done func(error))

	// Drop ends the part of the source, wherever it has come to. It may be called
	// again.
	Drop()
}

// Ended is the type of FanOut.Ended.
type Ended = func(i int) (over bool, err error)

// AllEnded returns Ended for commands that have all ended, with an error or nil.
func AllEnded(err error) Ended { return func(int) (bool, error) { return true, err } }
