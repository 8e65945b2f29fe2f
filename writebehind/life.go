package writebehind

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/errs"
	"github.com/cachex-go/cachex/internal/guard"
)

// Start starts the goroutine that looks for what is to be persisted, once in every
// Options.Every in one process of the fleet, and persists it. Add, Put and Flush call
// it, and whoever writes to what is pending by a script of its own should: it costs
// next to nothing when the goroutine runs. A program that should persist what others
// have written calls it too. Close ends the goroutine; after Close, Start does nothing.
func (e *Engine) Start() {
	if e.begun.Load() {
		e.wrote.Now()
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.begun.Load() {
		return
	}
	work, cancel := context.WithCancel(context.Background())
	sweep, halt := context.WithCancel(work)
	e.cancel, e.halt = cancel, halt
	e.kick = func(bucket int) { _ = e.dispatch(work, bucket) }
	e.alive++
	// Ends with sweep, which ctx ends.
	e.start(notify, func() error { e.sweep(sweep, work); return nil }, func(error) {})
	e.begun.Store(true)
}

// Flush persists all that was pending or in flight when it was called, whoever wrote
// it, and returns nil when the database has it. It waits for batches that others
// persist. While writers write more than a batch holds, it persists some of that too.
// It tries what has failed before without waiting for its time.
//
// With an error, some of it may be persisted; all that is not is still in Redis, and
// will be. The error is that of one of the buckets that failed. An *AsideError says that
// the database refused something for good meanwhile, or that this process cannot read
// something.
func (e *Engine) Flush(ctx context.Context) error {
	err := e.open(ctx)
	if err == nil {
		e.Start()
		err = e.flushAll(ctx)
	}
	if err != nil {
		return fmt.Errorf("cachex: flush %s: %w", e.o.Name, err)
	}
	return nil
}

// Close ends the engine: calls that come later fail with ErrClosed. It persists all
// that is pending, as Flush does, unless this engine was never started; if Redis does not
// answer, it tries that again for about a second. Then it waits for its goroutines. It
// returns a *LeftError if ctx ends first, or something could not be persisted; an
// *AsideError in its chain says how much the database has refused, or this process
// cannot read. What is left is not lost, and any engine of this name persists it. Close
// may be called again: to try once more, if it failed, or for nothing. The client stays
// open.
func (e *Engine) Close(ctx context.Context) error {
	if ctx == nil {
		return fmt.Errorf("cachex: close %s: %w", e.o.Name, errNilContext)
	}
	e.mu.Lock()
	e.closed = true
	if e.halt != nil {
		e.halt()
	}
	e.mu.Unlock()
	select {
	case e.closing <- struct{}{}:
		defer func() { <-e.closing }()
	case <-ctx.Done():
		return fmt.Errorf("cachex: close %s: %w", e.o.Name, context.Cause(ctx))
	}
	if e.over() {
		return nil
	}
	var err error
	if e.begun.Load() {
		if err = e.drain(ctx); err != nil {
			left := &LeftError{Err: err}
			left.IDs, left.Known = e.left(ctx)
			err = fmt.Errorf("cachex: close %s: %w", e.o.Name, left)
		}
		e.mu.Lock()
		e.cancel()
		e.mu.Unlock()
	}
	if !e.wait(ctx, err == nil) && err == nil {
		err = fmt.Errorf("cachex: close %s: %w", e.o.Name, context.Cause(ctx))
	}
	return err
}

// The pauses of Close before it tries again what Redis has failed at. A connection that is
// dead, or a failover, is over then; and a Redis that is away holds up no shutdown whose
// ctx does not end. What Persist has failed at is not tried again: it may be at it for
// Timeout each time, and does so itself if that is worth it.
var pauses = [...]time.Duration{50 * time.Millisecond, 200 * time.Millisecond, 800 * time.Millisecond}

// drain is flushAll for Close, which is the last to try.
func (e *Engine) drain(ctx context.Context) error {
	err := e.flushAll(ctx)
	for _, pause := range pauses {
		if err == nil || !ofRedis(err) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
		err = e.flushAll(ctx)
	}
	return err
}

// ofRedis reports whether err says that Redis has failed, and may not fail again.
func ofRedis(err error) bool {
	_, ofPersist := errors.AsType[*persistError](err)
	if aside, beside := errs.Find[*AsideError](err); len(aside) > 0 && !beside {
		return false
	}
	return !ofPersist && !errors.Is(err, guard.ErrGoexit) && !errors.Is(err, redis.ErrClosed)
}

// A LeftError says that Close could not persist everything.
type LeftError struct {
	IDs   int64 // how many are still pending or in flight, or wait for a process that can read them
	Known bool  // whether Redis could tell
	Err   error // why
}

// Error tells how much is left.
func (e *LeftError) Error() string {
	if !e.Known {
		return fmt.Sprintf("not all is persisted, the rest is in Redis: %v", e.Err)
	}
	return fmt.Sprintf("%d ids are not persisted and still in Redis: %v", e.IDs, e.Err)
}

// Unwrap returns Err.
func (e *LeftError) Unwrap() error { return e.Err }

// grace is how long Close waits for Redis to tell how much is left.
const grace = 250 * time.Millisecond

func (e *Engine) left(ctx context.Context) (int64, bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.grace)
	defer cancel()
	all, err := e.survey(ctx, false)
	if err != nil {
		return 0, false
	}
	b := total(all)
	return b.IDs + b.InFlight + b.Unread, b.failed == nil
}

func (e *Engine) over() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ended
}

// flushAll flushes every bucket that has something to do.
func (e *Engine) flushAll(ctx context.Context) error {
	all, err := e.survey(ctx, false)
	if err != nil {
		return err
	}
	var (
		mu     sync.Mutex
		failed int
		first  error
	)
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed++
		if first == nil {
			first = err
		}
	}
	waiting, refused := 0, e.counters.refused.Load()
	ended := make(chan struct{}, len(all))
	for b, f := range all {
		switch {
		case f.err != nil:
			note(f.err)
		case f.pending > 0 || f.inFlight > 0 || f.unread > 0:
			waiting++
			// Ends with the flush, which ctx ends.
			if !e.spawn(guard.Persist, func() error { return e.flush(ctx, b, true) }, func(err error) {
				if err != nil {
					note(err)
				}
				ended <- struct{}{}
			}) {
				return ErrClosed
			}
		}
	}
	for range waiting {
		select {
		case <-ended:
		case <-ctx.Done(): // a Persist may not heed it
			return context.Cause(ctx)
		}
	}
	after := all
	if waiting > 0 {
		if after, err = e.survey(ctx, false); err != nil {
			return err
		}
	}
	aside := newAsideError(all, after, e.counters.refused.Load()-refused)
	mu.Lock()
	defer mu.Unlock()
	switch {
	case failed > 0 && aside != nil:
		return fmt.Errorf("%d of %d buckets: %w; %w", failed, len(all), first, aside)
	case failed > 0:
		return fmt.Errorf("%d of %d buckets: %w", failed, len(all), first)
	case aside != nil:
		return aside
	}
	return nil
}
