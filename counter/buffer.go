package counter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/guard"
	keys "github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/nonzero"
)

// ErrFull says that a Buffer has MaxKeys sums that Redis has not taken yet. Nothing was
// added.
var ErrFull = errors.New("the buffer is full")

// A Buffer adds up in this process what is counted, and sends the sums to Redis some
// times a second: for counts that are added to very often, and of which nobody needs
// the new value at once. It is safe for concurrent use.
//
// What was added since the last flush is lost if the process is killed, and is in no
// count that anybody reads until it is sent. The Flush and the Close of the Counter send
// it.
//
// While nothing is added there is no goroutine.
type Buffer[K comparable] struct {
	c       *Counter[K]
	o       BufferOptions
	shards  []shard[K]
	hides   bool         // see key.Hides
	near    sync.Pool    // of *shard[K]: the one that this core has used last
	size    atomic.Int64 // sums in all shards
	armed   atomic.Bool  // a flush will come
	timing  sync.Mutex
	timer   *time.Timer   // guarded by timing: of the flush that comes in time
	closed  atomic.Bool   // written with all shards locked
	flushes chan struct{} // has an element while a flush is under way
	kept    []sumOf[K]    // guarded by flushes: sums that were not taken

	overflows atomic.Int64 // keys in over
	over      sync.Map     // from K to the int64 that is kept, as its count would leave int64
	stats     struct{ flushes, failures, unknown atomic.Int64 }
}

// BufferOptions are the bounds of a Buffer.
type BufferOptions struct {
	// Every is how long what was added waits, about, before it is sent. Defaults to
	// 100 ms.
	Every time.Duration

	// MaxKeys is how many sums are kept. A flush begins early when there are half as
	// many, and while there are MaxKeys, since Redis does not answer, Add returns
	// ErrFull. A key that is added to by several cores may have a sum for each.
	// Defaults to 100,000.
	MaxKeys int
}

// A shard is a part of the sums, for one core at a time.
type shard[K comparable] struct {
	mu    sync.Mutex
	sums  map[K]int64 // guarded by mu
	spare map[K]int64 // for whoever flushes
	_     [40]byte    // no two shards on a cache line
}

// BufferStats are what a Buffer has counted since it was made.
type BufferStats struct {
	Sums     int   // that wait to be sent
	Flushes  int64 // that have sent something
	Failures int64 // sums that were not taken, kept, and sent again later
	Unknown  int64 // sums that were sent and not answered, and not sent again: see ErrOutcomeUnknown
}

// String returns the fields that are not zero, for %v and %+v.
func (s BufferStats) String() string { return nonzero.Format(s) }

// NewBuffer returns a buffer of c, or an error that names the option that is wrong. It
// lives as long as c, so make one and keep it.
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
	b.near.New = func() any { return &b.shards[int(next.Add(1))%len(b.shards)] }
	if !c.buffers.add(b) {
		return nil, fmt.Errorf("cachex: new buffer: %w", cachex.ErrClosed)
	}
	return b, nil
}

// Inc is Add of 1.
func (b *Buffer[K]) Inc(key K) error { return b.Add(key, 1) }

// Add adds delta to the count of key, some time later. It waits for nothing. The error
// is ErrFull, cachex.ErrClosed, or ErrOverflow if the sum leaves int64, or if a sum of
// the same sign is kept with which the count would; and nothing was added.
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
	// A Pool has a place of its own for each core, so that two cores seldom use one shard:
	// with shards taken at random their memory goes from one core to another all the time,
	// which costs five times as much as the rest.
	s := b.near.Get().(*shard[K])
	defer b.near.Put(s)
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
		b.arm(!there && b.size.Load() > int64(b.o.MaxKeys/2))
	}
	return nil
}

// arm sees to it that a flush comes: now, or in time.
func (b *Buffer[K]) arm(now bool) {
	if now {
		b.armed.Store(true)
		b.later()
	} else if b.armed.CompareAndSwap(false, true) {
		b.timing.Lock()
		defer b.timing.Unlock()
		switch {
		case b.closed.Load(): // a timer would keep b for as long
		case b.timer == nil:
			b.timer = time.AfterFunc(b.o.Every, b.later)
		default:
			b.timer.Reset(b.o.Every)
		}
	}
}

// disarm has no flush come in time. There would be a timer for each flush else.
func (b *Buffer[K]) disarm() {
	b.timing.Lock()
	defer b.timing.Unlock()
	if b.timer != nil {
		b.timer.Stop()
	}
}

// later is a flush that nobody waits for. What fails is tried again. It waits for as long
// as another flush takes, for nobody else would send what has been added since.
func (b *Buffer[K]) later() {
	// Ends with the flush, which Close waits for.
	guard.Go(guard.Client, func() error {
		b.flushes <- struct{}{}
		defer func() { <-b.flushes }()
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		return b.send(ctx)
	}, func(error) { // Stats count it
		if b.size.Load() > 0 && !b.closed.Load() {
			b.arm(false)
		}
	})
}

const flushTimeout = 30 * time.Second

// Flush sends what was added before the call. The error says how many sums were kept,
// to be sent again, and wraps that of the first sum that failed. It wraps
// ErrOutcomeUnknown if a sum was sent and not answered: such a sum is not sent again.
// Any other sum is kept, whatever the error.
func (b *Buffer[K]) Flush(ctx context.Context) error {
	select {
	case b.flushes <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("cachex: flush buffer: %d sums are kept: %w", b.size.Load(), context.Cause(ctx))
	}
	defer func() { <-b.flushes }()
	return b.send(ctx)
}

// send sends all sums. Whoever calls it has put an element into flushes.
func (b *Buffer[K]) send(ctx context.Context) error {
	b.disarm()
	b.armed.Store(false) // before: what is added from now on has a flush of its own
	defer func() {
		if b.size.Load() > 0 && !b.closed.Load() {
			b.arm(false) // whatever has failed
		}
	}()
	sums := make(map[K]int64)
	var all []*push[K]
	for _, p := range b.kept {
		if total, ok := plus(sums[p.key], p.sum); ok {
			sums[p.key] = total
		} else {
			all = append(all, b.c.pushing(p.key, p.sum))
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
				all = append(all, b.c.pushing(key, delta))
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
			all = append(all, b.c.pushing(key, delta))
		} else {
			b.fits(key)
		}
	}
	if len(all) == 0 {
		return nil
	}
	b.stats.flushes.Add(1)
	b.c.push(ctx, all)
	var failed error
	unknown := 0
	for _, p := range all {
		failed = cmp.Or(failed, p.err)
		switch {
		case p.err == nil:
			b.fits(p.key)
		case errors.Is(p.err, ErrOutcomeUnknown):
			unknown++
		default:
			b.keep(p)
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

// A sumOf is what is to be added to one count.
type sumOf[K comparable] struct {
	key K
	sum int64
}

// keep keeps a sum that was not taken. MaxKeys does not hold for it.
func (b *Buffer[K]) keep(p *push[K]) {
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

// fits notes that the sum of a key was taken.
func (b *Buffer[K]) fits(key K) {
	if b.overflows.Load() > 0 {
		if _, there := b.over.LoadAndDelete(key); there {
			b.overflows.Add(-1)
		}
	}
}

// Stats returns a snapshot.
func (b *Buffer[K]) Stats() BufferStats {
	return BufferStats{
		Sums: int(b.size.Load()), Flushes: b.stats.flushes.Load(),
		Failures: b.stats.failures.Load(), Unknown: b.stats.unknown.Load(),
	}
}

// close refuses what comes later.
func (b *Buffer[K]) close() {
	for i := range b.shards {
		b.shards[i].mu.Lock()
	}
	b.closed.Store(true)
	for i := range b.shards {
		b.shards[i].mu.Unlock()
	}
	b.disarm()
}

// plus returns the sum of two numbers, and whether it is an int64.
func plus(a, b int64) (int64, bool) {
	sum := a + b
	return sum, (sum > a) == (b > 0)
}

// pushing returns the push of a delta: what a count is that is not there depends on who
// restores it, and where what is added is persisted that need not be done now.
func (c *Counter[K]) pushing(key K, delta int64) *push[K] {
	k, err := c.keyOf(key)
	p := &push[K]{key: key, missing: c.whereMissing(), err: err}
	p.adding = adding{key: k, id: untagged(k, c.kind.Engine != nil), delta: decimal(delta)}
	if c.kind.Engine != nil {
		p.missing = "p"
	}
	return p
}

// keyOf returns the key in Redis, or why there is none.
func (c *Counter[K]) keyOf(key K) (string, error) {
	if k := c.Key(key); k != "" {
		return k, nil
	}
	call, err := c.kind.Enter(context.Background(), cachex.OpAdd, key)
	if err == nil { // a method of the key has changed its mind
		err = call.End(errBadKey)
	}
	return "", cause(err)
}

var errBadKey = errors.New("the key cannot be rendered")

// buffers are those of a Counter.
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

// drain flushes all buffers, for good if the Counter is closing.
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
