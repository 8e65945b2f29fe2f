package script

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/guard"
)

// Do sends one command alone, and returns its error as [Err] does.
//
// go-redis retries a command other than a [Once] as its options say, and a Once
// until it is written. Do retries a Once that was written if it is known not to
// have run: Redis refused it for now, or the connection broke within it. It
// does not if go-redis has done so, as it does on a Cluster or a Ring. If the
// nodes of a Cluster refused a command one after the other, Do sends it again.
func Do(ctx context.Context, rdb redis.UniversalClient, cmd redis.Cmder) error {
	if isLarge(cmd) {
		sendLarge(ctx, rdb, cmd)
		return Err(cmd)
	}
	o, _ := cmd.(*Once)
	if o != nil {
		o.stamp.direct = direct(rdb)
		o.stamp.alone = o.stamp.direct
	}
	for attempt := 0; ; attempt++ {
		// The error of Process is ignored: an AutoPipeline may return from it
		// before the reply arrives, and cmd waits for the reply.
		crash := guard.Call(guard.Client, func() error { _ = rdb.Process(ctx, cmd); return nil })
		if crash != nil && !(o != nil && o.answered()) {
			cmd.SetErr(crash)
		}
		err := cmd.Err()
		switch {
		case err == nil:
			return nil
		case lost(rdb, cmd) && attempt < follow && pause(ctx, attempt):
			cmd.SetErr(nil)
		case o == nil || !o.again(err) || attempt >= retries(rdb) || !pause(ctx, attempt):
			Failed(rdb, err)
			return Err(cmd)
		}
		if o != nil {
			o.stamp.copies.Store(0)
		}
	}
}

// follow is how often a command is resent after nodes redirected it to each
// other. Each time, the client has learned where the slot is, and where it
// goes.
const follow = 3

// lost reports whether the client gave up on a command that nodes redirected.
// It has then followed the command as often as its MaxRedirects allows, and the
// last node has also refused to run it.
func lost(rdb redis.UniversalClient, cmd redis.Cmder) bool {
	if o, ok := cmd.(*Once); ok && o.stamp.state.Load() != unsent {
		return false
	}
	return redirected(cmd.Err()) && !client.Plain(rdb)
}

// again reports whether the only copy that was sent is known not to have run,
// and another copy may be sent.
func (o *Once) again(err error) bool {
	s := &o.stamp
	return s.copies.Load() == 1 && s.state.Load() == unsent && !NotKnown(err) && (refused(err) || unfinished(err))
}

// retries returns the maximum number of times that the client resends a
// command.
func retries(rdb redis.UniversalClient) int {
	if c, ok := rdb.(*redis.Client); ok {
		return c.Options().MaxRetries
	}
	return 3 // the default of go-redis
}

// pause waits before another attempt, about as long as go-redis does by
// default. It reports whether ctx has not ended.
func pause(ctx context.Context, attempt int) bool {
	const least, most = 8 * time.Millisecond, 512 * time.Millisecond
	d := min(least<<min(attempt, 6), most)
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Exec sends commands in one round trip for each of their [Lots], or in two.
// Every command has its own reply or error; [Err] tells whether it may have
// been carried out. Exec returns an error only if a command was not answered.
//
// go-redis resends no command of a pipeline that has a [Once] that was written,
// or a command that is never retried. So Exec resends those commands that may
// be.
func Exec(ctx context.Context, rdb redis.UniversalClient, cmds []redis.Cmder) (failed error) {
	for some := range Lots(cmds, len(cmds), redis.Cmder.Args) {
		if !isLarge(some[0]) {
			failed = cmp.Or(execAll(ctx, rdb, some), failed)
			continue
		}
		sendLarge(ctx, rdb, some[0])
		if err := some[0].Err(); !Answered(err) {
			failed = err
		}
	}
	return failed
}

// execAll does the work of Exec for one of the Lots.
func execAll(ctx context.Context, rdb redis.UniversalClient, cmds []redis.Cmder) error {
	straight := direct(rdb)
	for _, c := range cmds {
		if o, ok := c.(*Once); ok {
			o.stamp.direct, o.stamp.alone = straight, false
		}
	}
	failed := exec(ctx, rdb, cmds)
	for attempt := range follow {
		again := take(cmds, func(c redis.Cmder) bool { return lost(rdb, c) })
		if len(again) == 0 || !pause(ctx, attempt) {
			break
		}
		if err := execAgain(ctx, rdb, again); err != nil {
			failed = err
		}
	}
	if failed == nil || ctx.Err() != nil || !slices.ContainsFunc(cmds, redis.Cmder.NoRetry) {
		return failed // go-redis has made all retries that are possible
	}
	_, once := first[*Once](cmds)
	again := take(cmds, func(c redis.Cmder) bool { return resend(c, c.Err(), once) })
	if len(again) == 0 {
		return failed
	}
	_ = execAgain(ctx, rdb, again)
	for _, c := range cmds {
		if err := c.Err(); !Answered(err) {
			return err
		}
	}
	return nil
}

// execAgain sends commands that failed, as exec does.
func execAgain(ctx context.Context, rdb redis.UniversalClient, cmds []redis.Cmder) error {
	for _, c := range cmds {
		c.SetErr(nil)
	}
	return exec(ctx, rdb, cmds)
}

// take returns the commands for which wanted returns true.
func take(cmds []redis.Cmder, wanted func(redis.Cmder) bool) (some []redis.Cmder) {
	for _, c := range cmds {
		if wanted(c) {
			some = append(some, c)
		}
	}
	return some
}

// exec sends commands, and returns the error of a command that was not
// answered.
func exec(ctx context.Context, rdb redis.UniversalClient, cmds []redis.Cmder) (failed error) {
	var err error
	if crash := guard.Call(guard.Client, func() error {
		p := rdb.Pipeline()
		_ = p.BatchProcess(ctx, cmds...) // it only queues
		_, err = p.Exec(ctx)
		return nil
	}); crash != nil {
		// If a command has no error, it is not known whether it was answered.
		// Only a Once knows.
		for _, c := range cmds {
			if l, ok := c.(*lone); ok {
				c = l.Cmder
			}
			if o, ok := c.(*Once); c.Err() == nil && !(ok && o.answered()) {
				c.SetErr(crash)
			}
		}
		err = crash
	} else if err == nil {
		return nil
	}
	// The error belongs to the first command that failed, and says nothing
	// about the others. The exception is a hook that refused them all: then
	// none has an answer or an error.
	refused := !panicked(err) && !slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Err() != nil })
	for _, c := range cmds {
		if refused {
			c.SetErr(err)
		}
		if err := c.Err(); !Answered(err) {
			Failed(rdb, err)
			failed = err
		}
	}
	return failed
}

// resend reports whether a failed command may be resent, although go-redis did
// not because of other commands in the pipeline. If once is set, one of them is
// a Once. Otherwise one was a read that must not be repeated when it was slow.
func resend(cmd redis.Cmder, err error, once bool) bool {
	switch o, ok := cmd.(*Once); {
	case err == nil || NotKnown(err) || panicked(err):
		return false
	case ok:
		return o.stamp.state.Load() == unsent && (refused(err) || !Answered(err))
	case cmd.NoRetry():
		return false
	}
	return !Answered(err) && (once || Broken(err))
}

// panicked reports whether err is a panic of the client: of a hook, or of the
// parser on a reply that makes no sense.
func panicked(err error) bool {
	_, ok := errors.AsType[*guard.PanicError](err)
	return ok
}

func first[T redis.Cmder](cmds []redis.Cmder) (T, bool) {
	for _, c := range cmds {
		if t, ok := c.(T); ok {
			return t, true
		}
	}
	var zero T
	return zero, false
}
