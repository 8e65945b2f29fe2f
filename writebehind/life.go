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

// Start starts the goroutine that looks for pending ids and persists them, once
// per Options.Every in one process of the fleet. Add, Put and Flush call it. A
// caller that writes pending ids by a script of its own should call it too:
// while the goroutine runs, the call costs almost nothing. A program that
// persists the writes of other processes also calls it. Close ends the
// goroutine; after Close, Start does nothing.
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

// Flush persists all ids that were pending or in flight when it was called,
// written by any process. It returns nil when the database has them. It waits
// for batches that other processes persist. If writers add more than a batch
// holds meanwhile, it persists some of that too. It retries failed batches
// without waiting for their back-off.
//
// After an error, some of the ids may be persisted. All others are still in
// Redis and will be persisted. The error is from one of the buckets that
// failed. An *AsideError says that the database refused some ids for good
// meanwhile, or that this process cannot read some ids.
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

// Close ends the engine: later calls fail with ErrClosed. It persists all
// pending ids, as Flush does, unless this engine was never started. If Redis
// does not answer, it retries for about a second. Then it waits for its
// goroutines.
//
// Close returns a *LeftError if ctx ends first, or if some ids could not be
// persisted. An *AsideError in its chain says how many ids the database has
// refused, or this process cannot read. Ids that are left are not lost, and any
// engine of this name persists them. Close may be called again. If it failed
// before, it tries once more; otherwise it does nothing. The client stays open.
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

// pauses are the times that Close waits before it retries a failure of Redis. A
// dead connection or a failover is over by then. If Redis stays away, a
// shutdown whose ctx never ends still finishes. Failures of Persist are not
// retried: each attempt may take Timeout, and Persist itself can retry if that
// is worthwhile.
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

// ofRedis reports whether err says that Redis has failed and may answer on a
// retry.
func ofRedis(err error) bool {
	_, ofPersist := errors.AsType[*persistError](err)
	if aside, beside := errs.Find[*AsideError](err); len(aside) > 0 && !beside {
		return false
	}
	return !ofPersist && !errors.Is(err, guard.ErrGoexit) && !errors.Is(err, redis.ErrClosed)
}

// LeftError says that Close could not persist everything.
type LeftError struct {
	IDs   int64 // how many ids are still pending, in flight or unread
	Known bool  // whether Redis could tell
	Err   error // why
}

// Error says how many ids are left.
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

// flushAll flushes every bucket that has ids to persist.
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
