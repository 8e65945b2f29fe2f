// Package combine has what several goroutines send at the same time leave together.
package combine

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
)

// A Combiner sends what callers bring, each by itself as long as few are under way, and
// else together with what others bring meanwhile. So a lone caller waits for nobody, and
// many share the round trips, the system calls and the wakeups of few. The busier Redis
// is, the more leave together: no timer is needed, and no goroutine while callers come
// one by one.
//
// What is brought after a lot was sent is never part of it: whatever has happened before
// a call of Do is seen by what Do sends.
//
// How many are few depends on how far away Redis is, see pace.
type Combiner[T comparable] struct {
	// Send sends some items, one at least, and returns when they have their answers. If it
	// is one, it runs in the goroutine of its caller. If there are several, ctx has the
	// values of one of their callers, and does not end.
	Send func(ctx context.Context, items []T)

	// Fail is told of items whose Send has panicked or called runtime.Goexit, which may
	// have answered some of them. See package guard for the error.
	Fail func(items []T, err error)

	// Weigh is the weight of an item. Defaults to 1 for each.
	Weigh func(T) int

	// Most is how much leaves together at most.
	Most int

	// Go starts a goroutine, which ends when nobody waits any more. Defaults to guard.Go.
	Go guard.Spawn

	pace  pace
	state atomic.Int64 // how many lots are under way, and queued
	mu    sync.Mutex
	queue []*lot[T] // guarded by mu: lots that wait, the next one first
}

// queued is set in state whenever there is a lot in the queue that nobody has set out to
// send. It is set and taken away under mu. Who ends a lot and sees it sends the next.
const queued = 1 << 32

// A lot is what leaves together.
type lot[T comparable] struct {
	ctx    context.Context // of who came first
	items  []T             // guarded by mu until sent is set
	weight int             // guarded by mu
	sent   bool            // guarded by mu
	done   chan struct{}   // closed when the items have their answers
}

// Do sends item, and reports whether it did: it did not if ctx ended before. If ctx ends
// while it is sent with others, Do returns true too, with the cause of that, and the
// answer may still come: item must not be looked at.
func (c *Combiner[T]) Do(ctx context.Context, item T) (sent bool, err error) {
	idle, ok := c.Alone()
	if !ok {
		return c.Join(ctx, item)
	}
	began := time.Now()
	defer func() { c.Over(idle, time.Since(began)) }()
	items := []T{item}
	if err := guard.Call(guard.Client, func() error { c.Send(ctx, items); return nil }); err != nil {
		c.Fail(items, err)
	}
	return true, nil
}

// Alone reports whether so few are under way that the caller sends what it has by itself.
// It then has to call Over, with what Alone says of nobody else being under way. Else it
// calls Join. Do does all this; Alone is for who sends a single item in another way.
func (c *Combiner[T]) Alone() (idle, ok bool) {
	for {
		n := c.state.Load()
		if n >= c.pace.ahead() { // or somebody waits
			return false, false
		}
		if c.state.CompareAndSwap(n, n+1) {
			return n == 0, true
		}
	}
}

// Over says that what Alone has allowed has ended, and how long it took.
func (c *Combiner[T]) Over(idle bool, took time.Duration) {
	c.pace.took(took, idle)
	for {
		n := c.state.Load()
		if n&queued != 0 {
			c.start()
			return
		}
		if c.state.CompareAndSwap(n, n-1) {
			return
		}
	}
}

// Join has item leave with others, as Do says.
func (c *Combiner[T]) Join(ctx context.Context, item T) (sent bool, err error) {
	l, start := c.board(ctx, item)
	if start {
		c.start()
	}
	if ctx.Done() == nil { // to select takes several times as long
		<-l.done
		return true, nil
	}
	select {
	case <-l.done:
		return true, nil
	case <-ctx.Done():
		return c.leave(l, item), context.Cause(ctx)
	}
}

// board adds item to a lot that waits, and reports whether the caller is to have it sent,
// since all that were under way have ended meanwhile.
func (c *Combiner[T]) board(ctx context.Context, item T) (l *lot[T], start bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l = c.last(ctx, item)
	for {
		switch n := c.state.Load(); {
		case n&queued != 0, n >= c.pace.ahead() && c.state.CompareAndSwap(n, n|queued):
			return l, false
		case n < c.pace.ahead() && c.state.CompareAndSwap(n, n+1):
			return l, true
		}
	}
}

// last adds item to the last of the lots that wait, or to a new one if it does not fit.
// The caller holds mu.
func (c *Combiner[T]) last(ctx context.Context, item T) *lot[T] {
	weight := 1
	if c.Weigh != nil {
		weight = c.Weigh(item)
	}
	var l *lot[T]
	if n := len(c.queue); n > 0 && c.queue[n-1].weight+weight <= c.Most {
		l = c.queue[n-1]
	} else {
		l = &lot[T]{ctx: ctx, done: make(chan struct{})}
		c.queue = append(c.queue, l)
	}
	l.items, l.weight = append(l.items, item), l.weight+weight
	return l
}

// leave takes item out of l, and reports whether it was sent before.
func (c *Combiner[T]) leave(l *lot[T], item T) (sent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.sent {
		return true
	}
	i := slices.Index(l.items, item)
	l.items = slices.Delete(l.items, i, i+1) // its weight stays: the lot leaves soon
	if len(l.items) == 0 {
		i := slices.Index(c.queue, l)
		c.queue = slices.Delete(c.queue, i, i+1)
	}
	return false
}

// start has the lots that wait be sent, one after the other, as one that is under way.
func (c *Combiner[T]) start() {
	spawn := c.Go
	if spawn == nil {
		spawn = guard.Go
	}
	spawn(guard.Client, c.run, func(err error) { // ends when the queue is empty
		if err != nil { // Send has called runtime.Goexit
			c.start()
		}
	})
}

func (c *Combiner[T]) run() error {
	for {
		l := c.next()
		if l == nil {
			return nil
		}
		began := time.Now()
		c.send(l)
		c.pace.took(time.Since(began), false)
		// Those who have their answers run first: they may bring something for the next.
		runtime.Gosched()
	}
}

// send sends a lot.
func (c *Combiner[T]) send(l *lot[T]) {
	ctx := context.WithoutCancel(l.ctx)
	guard.Run(guard.Client, func() error { c.Send(ctx, l.items); return nil }, func(err error) {
		if err != nil {
			c.Fail(l.items, err)
		}
		close(l.done)
	})
}

// next takes the lot that has waited longest out of the queue. If there is none, one less
// is under way.
func (c *Combiner[T]) next() (l *lot[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 {
		l = c.queue[0]
		l.sent = true
		c.queue = slices.Delete(c.queue, 0, 1)
	}
	// Nobody sets queued but under mu, and nobody counts on it but who sees it set.
	if len(c.queue) > 0 {
		c.state.Or(queued)
	} else {
		c.state.And(^int64(queued))
	}
	if l == nil {
		c.state.Add(-1)
	}
	return l
}
