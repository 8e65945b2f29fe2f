// Package combine sends the items of several goroutines together.
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

// Combiner sends the items of its callers: each item alone while few lots are
// in flight, otherwise together with items that other callers bring meanwhile.
// So a lone caller waits for no other caller, and many callers share few round
// trips, system calls and wakeups. The busier Redis is, the more items share a
// lot. So no timer is needed, and no goroutine while callers come one by one.
//
// An item that is brought after a lot was sent is never part of that lot. So
// every effect from before a call of Do is visible to the commands that Do
// sends.
//
// How many lots are few depends on the distance to Redis: see pace.
type Combiner[T comparable] struct {
	// Send sends one or more items, and returns when they have their answers. A
	// single item is sent in the goroutine of its caller. If there are several,
	// ctx has the values of one of their callers, and does not end. Required.
	Send func(ctx context.Context, items []T)

	// Fail receives the items of a Send that has panicked or called
	// runtime.Goexit. Send may have answered some of them. See package guard
	// for the error. Required.
	Fail func(items []T, err error)

	// Weigh returns the weight of an item. Defaults to 1 for each.
	Weigh func(T) int

	// Most is the largest weight of a lot. Required.
	Most int

	// Go starts a goroutine, which ends when no caller waits any more. Defaults
	// to guard.Go.
	Go guard.Spawn

	pace  pace
	state atomic.Int64 // the number of lots in flight, and queued
	mu    sync.Mutex
	queue []*lot[T] // guarded by mu: lots that wait, the next one first
}

// queued is set in state while the queue has a lot that no goroutine has begun
// to send. It is set and cleared under mu. A goroutine that ends a lot and
// finds it set sends the next lot.
const queued = 1 << 32

// lot is a group of items that are sent together.
type lot[T comparable] struct {
	ctx    context.Context // of the first caller
	items  []T             // guarded by mu until sent is set
	weight int             // guarded by mu
	sent   bool            // guarded by mu
	done   chan struct{}   // closed when the items have their answers
}

// Do sends item, and reports whether it did. If ctx ends before, Do returns
// false. If ctx ends while item is sent with others, Do returns true with the
// cause of ctx. The answer may then still come, so item must not be read.
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

// Alone reports whether so few lots are in flight that the caller sends its
// item alone. If ok is true, the caller must then call Over with idle, which
// says whether no other lot is in flight. Otherwise the caller calls Join. Do
// does all this; Alone is for a caller that sends a single item in another way.
func (c *Combiner[T]) Alone() (idle, ok bool) {
	for {
		n := c.state.Load()
		if n >= c.pace.ahead() { // or an item waits
			return false, false
		}
		if c.state.CompareAndSwap(n, n+1) {
			return n == 0, true
		}
	}
}

// Over ends a send that Alone has allowed. took is how long it took.
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

// Join has item sent with others. It returns the results of Do.
func (c *Combiner[T]) Join(ctx context.Context, item T) (sent bool, err error) {
	l, start := c.board(ctx, item)
	if start {
		c.start()
	}
	if ctx.Done() == nil { // select takes several times as long
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

// board adds item to a lot that waits. It returns true if the caller must start
// the sending, because enough lots have ended meanwhile.
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

// last adds item to the last waiting lot, or to a new one if it does not fit.
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
	l.items = slices.Delete(l.items, i, i+1) // its weight stays: the lot is sent soon
	if len(l.items) == 0 {
		i := slices.Index(c.queue, l)
		c.queue = slices.Delete(c.queue, i, i+1)
	}
	return false
}

// start has the waiting lots sent, one after another, as one lot in flight.
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
		// Callers that have their answers run first: they may bring items for
		// the next lot.
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

// next takes the lot that has waited longest out of the queue. If there is
// none, one lot fewer is in flight.
func (c *Combiner[T]) next() (l *lot[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 {
		l = c.queue[0]
		l.sent = true
		c.queue = slices.Delete(c.queue, 0, 1)
	}
	// queued is set only under mu, and only a goroutine that finds it set
	// relies on it.
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
