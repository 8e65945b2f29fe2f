// Package convoy shares round trips among several parties: the members of a
// batch, or the flights of many keys.
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

// Most is the largest number of commands in one pipeline. An MGET counts as one
// command for each key, and an HMGET for each field. A command with a method
// Weight counts as much as that returns. A server answers no other client while
// it runs a command.
const Most = 500

// Send sends the commands queued on all, in one or two round trips for each
// Most. The client distributes them to the nodes of a Cluster. Every command
// has its own reply or error. Send returns an error only if no command was
// answered.
func Send(ctx context.Context, rdb redis.UniversalClient, all redis.Pipeliner) error {
	cmds := all.Cmds()
	all.Discard()
	err, _ := sendAll(cmds, func(cmds []redis.Cmder) (sent, error) { return send(ctx, rdb, cmds), nil })
	return err
}

// SendOrLeave is Send for a caller that leaves as Leave does: when ctx is done,
// or when a round trip has no answer after d. The commands may then still be in
// flight, and must not be read.
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

// sendAll sends cmds by trip, which takes one round trip. It returns an error
// if no command was answered, or if trip has left.
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

// sent is the result of the commands of one round trip.
type sent struct {
	answered bool  // at least one command was
	failed   error // of a command without an answer
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

// loads yields cmds in lots that are sent together.
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

// Leave runs fn, which calls Redis, by start, in a goroutine that start tracks,
// and returns the results of fn. It leaves when ctx is done, or after d without
// an answer: the client heeds neither while it reads. A caller that leaves does
// not know what fn did or will do, and must not touch the variables that fn
// writes.
//
// If ctx never ends, its owner waits. Then Leave calls fn in the caller's
// goroutine, and takes as long as the client does. Passing fn to another
// goroutine costs two goroutine switches, a considerable part of a round trip.
//
// If fn panics or calls runtime.Goexit, Leave returns that as the error: see
// package guard.
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
	var a answer // belongs to the goroutine of fn until it is sent
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

// leave is Leave for calls that take any number of round trips. fn calls begins
// when a round trip begins. leave leaves d after the last of these calls, or
// after d if there was none. If the caller waits for as long as it takes,
// begins is nil.
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
		default: // the one before has not been received yet
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

// RunOrLeave runs calls by run, which takes one round trip, and leaves as Leave
// does. It sets their replies and errors. run gets copies, which the client may
// write to after the caller has left. For calls that are sent once, the error
// then says what Redis may have done or may do.
func RunOrLeave(ctx context.Context, rdb redis.UniversalClient, d time.Duration, start guard.Spawn, calls []*script.Call, run func(context.Context, []*script.Call)) {
	copies := copied(ctx, rdb, calls)
	_, err := Leave(ctx, d, start, func(ctx context.Context) (struct{}, error) {
		run(ctx, copies)
		return struct{}{}, nil
	})
	took(calls, copies, err)
}

// copied returns copies of calls for the client to write to.
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

// took gives calls the replies and errors of their copies. If the caller has
// left because of err, took sets the error that says what this means for each
// call.
func took(calls, copies []*script.Call, err error) {
	for i, c := range calls {
		if err != nil {
			c.Reply, c.Err = nil, copies[i].Left(err)
		} else {
			c.Reply, c.Err = copies[i].Reply, copies[i].Err
		}
	}
}

// ErrSilent is the cause of leaving because no answer came.
var ErrSilent = errors.New("Redis did not answer in time")

// Silence returns how long Redis may take to answer one round trip of a source
// whose leases last for ttl.
func Silence(ttl time.Duration) time.Duration { return max(ttl, time.Second) }

// Loading is a source that loads, and takes part in a Convoy. One goroutine
// calls Take and Load in this order, and again as long as some commands have
// not ended.
type Loading interface {
	// Take takes the answers of the commands that have ended since the last
	// Take. All were sent at the time sent. Take calls ended with the index of
	// a command that Ask has queued; ended reports whether that command has
	// ended. If its err is not nil, it is the reason, and the command must not
	// be read.
	Take(sent time.Time, ended Ended)

	// Load begins to load the absent values, and does not wait for them. It is
	// called after each Take.
	Load(c *Convoy)

	// Silence returns how long Redis may take to answer one round trip.
	Silence() time.Duration

	// Away returns why Redis was not asked, or did not answer.
	Away() error

	// Spawn is guard.Go in a goroutine that the source waits for when it is
	// closed.
	Spawn(code guard.Code, fn func() error, done func(error))

	// Drop ends the part of the source in the convoy, at whatever step it is.
	// It may be called again.
	Drop()
}

// Ended is the type of FanOut.Ended.
type Ended = func(i int) (over bool, err error)

// AllEnded returns an Ended for commands that have all ended, with err, which
// may be nil.
func AllEnded(err error) Ended { return func(int) (bool, error) { return true, err } }
