package engine

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// A heartbeat renews leases that were granted in one round trip: every third of the
// time that they hold, from when it is started until stop. Each server has a heartbeat of
// its own: one that is silent keeps no lease of another one from being renewed.
//
// Its timer costs no goroutine before it fires, which it does not while a load is
// quick.
type heartbeat struct {
	l     *Engine
	is    []int // which of the leases; nil: all
	renew renewing
	send  func([]*script.Call)
	next  *heartbeat // of another server; nil: none

	mu    sync.Mutex
	timer *time.Timer // guarded by mu
	ended bool        // guarded by mu
}

// A renewing returns what renews some leases, or all if is is nil, and what is told that
// there are answers, which may be nil.
type renewing = func(is []int) (calls []*script.Call, answered func())

// beating starts the heartbeats of n leases, of which key returns the keys. renew is
// called for each beat, and its answered not after stop has returned. Both may run on
// goroutines of the Engine, for several servers at the same time. What is under way when
// ctx ends or stop is called is left.
func (l *Engine) beating(ctx context.Context, n int, key func(i int) string, renew renewing) (first *heartbeat) {
	for _, is := range convoy.ByServer(l.rdb, n, func(i int) string {
		at, _ := l.leases.place(key(i))
		return at
	}) {
		first = l.beatingAt(ctx, is, renew, first)
	}
	if first == nil { // one server
		first = l.beatingAt(ctx, nil, renew, nil)
	}
	return first
}

// beatingAt starts the heartbeat of the leases of one server.
func (l *Engine) beatingAt(ctx context.Context, is []int, renew renewing, next *heartbeat) *heartbeat {
	h := &heartbeat{l: l, is: is, renew: renew, next: next}
	h.send = func(calls []*script.Call) { l.send(ctx, calls) }
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = time.AfterFunc(l.leases.ttl/3, h.beat)
	return h
}

// beat renews the leases once, and has the timer fire again when the answer is there.
func (h *heartbeat) beat() {
	if h.over() {
		return
	}
	var calls []*script.Call
	var answered func()
	h.l.Spawn(guard.Client, func() error { // ends with the answer
		calls, answered = h.renew(h.is)
		h.send(calls)
		return nil
	}, func(err error) {
		for _, c := range calls {
			c.Err = cmp.Or(err, c.Err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.ended {
			return
		}
		if answered != nil {
			answered()
		}
		h.timer.Reset(h.l.leases.ttl / 3)
	})
}

// over reports whether stop was called.
func (h *heartbeat) over() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ended
}

// stop ends the heartbeats, unless there are none. It may be called again.
func (h *heartbeat) stop() {
	for ; h != nil; h = h.next {
		h.end()
	}
}

func (h *heartbeat) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.timer.Stop()
}

// those returns some of all, or all if is is nil.
func those[T any](all []T, is []int) []T {
	if is == nil {
		return all
	}
	return pick(all, is)
}
