package counter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
)

// flushInBackground starts a flush. If it fails, another one is scheduled. It
// waits for a running flush, since no other flush would send the sums added
// since.
func (b *Buffer[K]) flushInBackground() {
	// It ends with the flush, which Close waits for.
	guard.Go(guard.Client, func() error {
		b.flushes <- struct{}{}
		defer func() { <-b.flushes }()
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		return b.send(ctx)
	}, func(error) { // Stats count the error
		if b.size.Load() > 0 && !b.closed.Load() {
			b.scheduleFlush(false)
		}
	})
}

const flushTimeout = 30 * time.Second

// Flush sends all additions made before the call. The error says how many sums
// were kept, to be sent again, and wraps the error of the first failed sum. If
// a sum was sent without a reply, the error also wraps ErrOutcomeUnknown, and
// that sum is not sent again. All other failed sums are kept, whatever the
// error.
func (b *Buffer[K]) Flush(ctx context.Context) error {
	select {
	case b.flushes <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("cachex: flush buffer: %d sums are kept: %w", b.size.Load(), context.Cause(ctx))
	}
	defer func() { <-b.flushes }()
	return b.send(ctx)
}

// send sends all sums. The caller must hold flushes.
func (b *Buffer[K]) send(ctx context.Context) error {
	b.stopTimer()
	b.armed.Store(false) // first: later additions schedule their own flush
	defer func() {
		if b.size.Load() > 0 && !b.closed.Load() {
			b.scheduleFlush(false) // after any failure
		}
	}()
	sums := make(map[K]int64)
	var all []*bulkOp[K]
	for _, p := range b.kept {
		if total, ok := plus(sums[p.key], p.sum); ok {
			sums[p.key] = total
		} else {
			all = append(all, b.c.newBulkOp(p.key, p.sum))
		}
	}
	b.size.Add(-int64(len(b.kept)))
	b.kept = b.kept[:0]
	for i := range b.shards {
		s := &b.shards[i]
		s.mu.Lock()
		taken := s.sums
		s.sums, s.spare = s.spare, nil
		s.mu.Unlock()
		for key, delta := range taken {
			total, ok := plus(sums[key], delta)
			if !ok {
				all = append(all, b.c.newBulkOp(key, delta))
				continue
			}
			sums[key] = total
		}
		b.size.Add(-int64(len(taken)))
		clear(taken)
		s.spare = taken
	}
	for key, delta := range sums {
		if delta != 0 {
			all = append(all, b.c.newBulkOp(key, delta))
		} else {
			b.clearOverflow(key)
		}
	}
	if len(all) == 0 {
		return nil
	}
	b.stats.flushes.Add(1)
	b.c.addBulk(ctx, all)
	var failed error
	unknown := 0
	for _, p := range all {
		failed = cmp.Or(failed, p.err)
		switch {
		case p.err == nil:
			b.clearOverflow(p.key)
		case errors.Is(p.err, ErrOutcomeUnknown):
			unknown++
		default:
			b.requeue(p)
		}
	}
	b.stats.unknown.Add(int64(unknown))
	switch {
	case failed == nil:
		return nil
	case unknown > 0 && !errors.Is(failed, ErrOutcomeUnknown):
		failed = fmt.Errorf("%w: %w", ErrOutcomeUnknown, failed)
	}
	return fmt.Errorf("cachex: flush buffer: %d sums are kept, %d may have been added: %w", len(b.kept), unknown, failed)
}

// sumOf is the amount to add to one count.
type sumOf[K comparable] struct {
	key K
	sum int64
}

// requeue keeps a sum that was not accepted. MaxKeys does not limit kept sums.
func (b *Buffer[K]) requeue(p *bulkOp[K]) {
	sum, _ := strconv.ParseInt(p.delta, 10, 64)
	b.kept = append(b.kept, sumOf[K]{p.key, sum})
	b.size.Add(1)
	b.stats.failures.Add(1)
	if errors.Is(p.err, ErrOverflow) {
		if _, there := b.over.Swap(p.key, sum); !there {
			b.overflows.Add(1)
		}
	}
}

// clearOverflow notes that the sum of a key was accepted.
func (b *Buffer[K]) clearOverflow(key K) {
	if b.overflows.Load() > 0 {
		if _, there := b.over.LoadAndDelete(key); there {
			b.overflows.Add(-1)
		}
	}
}
