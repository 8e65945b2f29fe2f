package counter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex"
	keys "github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/nonzero"
)

// ErrFull reports that a Buffer holds MaxKeys sums that Redis has not accepted
// yet. Nothing was added.
var ErrFull = errors.New("the buffer is full")

// Buffer sums additions in this process, and sends the sums to Redis several
// times a second. It suits counts that change very often, and whose new value
// is not needed at once. It is safe for concurrent use.
//
// If the process is killed, additions since the last flush are lost. Until they
// are sent, no reader sees them. Flush and Close of the Counter send them.
//
// A Buffer without additions runs no goroutine.
type Buffer[K comparable] struct {
	c         *Counter[K]
	o         BufferOptions
	shards    []shard[K]
	hides     bool         // see key.Hides
	shardPool sync.Pool    // of *shard[K]: the one that this core used last
	size      atomic.Int64 // number of sums in all shards
	armed     atomic.Bool  // a flush is scheduled
	timing    sync.Mutex
	timer     *time.Timer   // guarded by timing: of the scheduled flush
	closed    atomic.Bool   // written with all shards locked
	flushes   chan struct{} // a semaphore: holds an element while a flush runs
	kept      []sumOf[K]    // guarded by flushes: sums that were not accepted

	overflows atomic.Int64 // number of keys in over
	over      sync.Map     // from K to the kept int64, whose count would overflow int64
	stats     struct{ flushes, failures, unknown atomic.Int64 }
}

// BufferOptions are the limits of a Buffer.
type BufferOptions struct {
	// Every is the approximate time that an addition waits before it is sent.
	// Defaults to 100 ms.
	Every time.Duration

	// MaxKeys limits the number of sums. A flush starts early when half of them
	// are in use. If Redis does not answer and MaxKeys is reached, Add returns
	// ErrFull. A key that several cores add to may have a sum for each of them.
	// Defaults to 100,000.
	MaxKeys int
}

// shard holds part of the sums. Usually one core uses it.
type shard[K comparable] struct {
	mu    sync.Mutex
	sums  map[K]int64 // guarded by mu
	spare map[K]int64 // empty; swapped with sums by a flush
	_     [40]byte    // no two shards share a cache line
}

// BufferStats are the counts of a Buffer since it was made.
type BufferStats struct {
	Sums     int   // sums that wait to be sent
	Flushes  int64 // flushes that sent at least one sum
	Failures int64 // sums that were not accepted; they were kept and sent again
	Unknown  int64 // sums that were sent without a reply, and not sent again: see ErrOutcomeUnknown
}

// String returns the fields that are not zero, for %v and %+v.
func (s BufferStats) String() string { return nonzero.Format(s) }

// NewBuffer returns a buffer of c, or an error that names the wrong option. The
// buffer lives as long as c, so make one and keep it.
func NewBuffer[K comparable](c *Counter[K], o BufferOptions) (*Buffer[K], error) {
	o.Every, o.MaxKeys = cmp.Or(o.Every, 100*time.Millisecond), cmp.Or(o.MaxKeys, 100_000)
	switch {
	case c == nil:
		return nil, errors.New("cachex: new buffer: the Counter is nil")
	case c.spec.UpCounts:
		return nil, errors.New("cachex: new buffer: the Counter has Spec.UpCounts: Up counts an event that is still in the buffer, and the buffer adds it again")
	case o.Every < time.Millisecond:
		return nil, fmt.Errorf("cachex: new buffer: Options.Every is %v, must be at least 1ms", o.Every)
	case o.MaxKeys < 1:
		return nil, fmt.Errorf("cachex: new buffer: Options.MaxKeys is %d, must be positive", o.MaxKeys)
	}
	n := 1
	for n < 4*runtime.GOMAXPROCS(0) {
		n *= 2
	}
	b := &Buffer[K]{c: c, o: o, shards: make([]shard[K], n), hides: keys.Hides[K](), flushes: make(chan struct{}, 1)}
	for i := range b.shards {
		b.shards[i].sums, b.shards[i].spare = make(map[K]int64), make(map[K]int64)
	}
	next := new(atomic.Uint32)
	b.shardPool.New = func() any { return &b.shards[int(next.Add(1))%len(b.shards)] }
	if !c.buffers.add(b) {
		return nil, fmt.Errorf("cachex: new buffer: %w", cachex.ErrClosed)
	}
	return b, nil
}

// Inc is like Add with 1.
func (b *Buffer[K]) Inc(key K) error { return b.Add(key, 1) }

// Add adds delta to the count of key, at the next flush. It does not wait. The
// error is ErrFull, cachex.ErrClosed, or ErrOverflow; then nothing was added.
// ErrOverflow means that the sum would leave int64, or that a kept sum of the
// same sign would make the count leave it.
func (b *Buffer[K]) Add(key K, delta int64) error {
	if b.hides {
		if err := hashable(key); err != nil {
			return fmt.Errorf("cachex: add: %w", err)
		}
	}
	if b.overflows.Load() > 0 {
		if sum, ok := b.over.Load(key); ok && (sum.(int64) > 0) == (delta > 0) {
			return ErrOverflow
		}
	}
	// A Pool has a slot for each core, so two cores seldom use the same shard.
	// With random shards their memory would move between cores all the time,
	// which costs five times as much as all the rest.
	s := b.shardPool.Get().(*shard[K])
	defer b.shardPool.Put(s)
	s.mu.Lock()
	if b.closed.Load() {
		s.mu.Unlock()
		return cachex.ErrClosed
	}
	sum, there := s.sums[key]
	if !there && b.size.Add(1) > int64(b.o.MaxKeys) {
		b.size.Add(-1)
		s.mu.Unlock()
		return ErrFull
	}
	total, ok := plus(sum, delta)
	if !ok {
		s.mu.Unlock()
		return ErrOverflow
	}
	s.sums[key] = total
	s.mu.Unlock()
	if !b.armed.Load() || !there && b.size.Load() == int64(b.o.MaxKeys/2+1) {
		b.scheduleFlush(!there && b.size.Load() > int64(b.o.MaxKeys/2))
	}
	return nil
}

// scheduleFlush schedules a flush: now, or after Every.
func (b *Buffer[K]) scheduleFlush(now bool) {
	if now {
		b.armed.Store(true)
		b.flushInBackground()
	} else if b.armed.CompareAndSwap(false, true) {
		b.timing.Lock()
		defer b.timing.Unlock()
		switch {
		case b.closed.Load(): // a timer would keep b alive
		case b.timer == nil:
			b.timer = time.AfterFunc(b.o.Every, b.flushInBackground)
		default:
			b.timer.Reset(b.o.Every)
		}
	}
}

// stopTimer cancels the scheduled flush. Otherwise each flush would leave a
// timer.
func (b *Buffer[K]) stopTimer() {
	b.timing.Lock()
	defer b.timing.Unlock()
	if b.timer != nil {
		b.timer.Stop()
	}
}

// Stats returns a snapshot.
func (b *Buffer[K]) Stats() BufferStats {
	return BufferStats{
		Sums: int(b.size.Load()), Flushes: b.stats.flushes.Load(),
		Failures: b.stats.failures.Load(), Unknown: b.stats.unknown.Load(),
	}
}

// close rejects further additions.
func (b *Buffer[K]) close() {
	for i := range b.shards {
		b.shards[i].mu.Lock()
	}
	b.closed.Store(true)
	for i := range b.shards {
		b.shards[i].mu.Unlock()
	}
	b.stopTimer()
}

// plus returns a+b, and reports whether it fits int64.
func plus(a, b int64) (int64, bool) {
	sum := a + b
	return sum, (sum > a) == (b > 0)
}

// newBulkOp returns the bulkOp of a delta. onMissing depends on who restores a
// missing count. If additions are persisted, they need not restore it now.
func (c *Counter[K]) newBulkOp(key K, delta int64) *bulkOp[K] {
	k, err := c.keyOf(key)
	p := &bulkOp[K]{key: key, onMissing: c.onMissing(), err: err}
	p.addRequest = addRequest{key: k, id: untagged(k, c.kind.Engine != nil), delta: decimal(delta)}
	if c.kind.Engine != nil {
		p.onMissing = "p"
	}
	return p
}

// keyOf returns the Redis key, or the reason why there is none.
func (c *Counter[K]) keyOf(key K) (string, error) {
	if k := c.Key(key); k != "" {
		return k, nil
	}
	call, err := c.kind.Enter(context.Background(), cachex.OpAdd, key)
	if err == nil { // a method of the key has changed its result
		err = call.End(errBadKey)
	}
	return "", cause(err)
}

var errBadKey = errors.New("the key cannot be rendered")

// buffers are the Buffers of a Counter.
type buffers[K comparable] struct {
	mu     sync.Mutex
	all    []*Buffer[K] // guarded by mu
	closed bool         // guarded by mu
}

func (bs *buffers[K]) add(b *Buffer[K]) bool {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if !bs.closed {
		bs.all = append(bs.all, b)
	}
	return !bs.closed
}

// drain flushes all buffers. If the Counter is closing, it closes them first.
func (c *Counter[K]) drain(ctx context.Context, closing bool) error {
	c.buffers.mu.Lock()
	c.buffers.closed = c.buffers.closed || closing
	all := c.buffers.all
	c.buffers.mu.Unlock()
	var failed []error
	for _, b := range all {
		if closing {
			b.close()
		}
		failed = append(failed, b.Flush(ctx))
	}
	return errors.Join(failed...)
}
