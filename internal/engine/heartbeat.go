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

// A heartbeat extends leases that were granted in one round trip, every third
// of their duration, from its start until stop. Each server has a heartbeat of
// its own, so a silent server does not keep the leases of another from being
// extended.
//
// The timer costs no goroutine before it fires, and it does not fire while a
// load is quick.
type heartbeat struct {
	l       *Engine
	indices []int // indices of the leases; nil: all
	renew   renewFunc
	send    func([]*script.Call)
	next    *heartbeat // of another server; nil if there is no other

	mu    sync.Mutex
	timer *time.Timer // guarded by mu
	ended bool        // guarded by mu
}

// A renewFunc returns the calls that extend some leases, or all if is is nil.
// It also returns a function to call after the replies, or nil.
type renewFunc = func(is []int) (calls []*script.Call, answered func())

// newHeartbeats starts the heartbeats of n leases; key returns their keys.
// renew is called for each beat. Its answered is not called after stop has
// returned. Both may run on goroutines of the Engine, for several servers at
// the same time. If ctx ends or stop is called, round trips in flight are left
// behind.
func (l *Engine) newHeartbeats(ctx context.Context, n int, key func(i int) string, renew renewFunc) (first *heartbeat) {
	for _, is := range convoy.ByServer(l.rdb, n, func(i int) string {
		at, _ := l.leases.locate(key(i))
		return at
	}) {
		first = l.newHeartbeat(ctx, is, renew, first)
	}
	if first == nil { // a single server
		first = l.newHeartbeat(ctx, nil, renew, nil)
	}
	return first
}

// newHeartbeat starts the heartbeat of the leases of one server.
func (l *Engine) newHeartbeat(ctx context.Context, is []int, renew renewFunc, next *heartbeat) *heartbeat {
	h := &heartbeat{l: l, indices: is, renew: renew, next: next}
	h.send = func(calls []*script.Call) { l.exec(ctx, calls) }
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = time.AfterFunc(l.leases.ttl/3, h.beat)
	return h
}

// beat extends the leases once, and resets the timer after the reply.
func (h *heartbeat) beat() {
	if h.isStopped() {
		return
	}
	var calls []*script.Call
	var answered func()
	h.l.Spawn(guard.Client, func() error { // ends with the reply
		calls, answered = h.renew(h.indices)
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

// isStopped reports whether stop was called.
func (h *heartbeat) isStopped() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ended
}

// stop stops the heartbeats. h may be nil, and stop may be called again.
func (h *heartbeat) stop() {
	for ; h != nil; h = h.next {
		h.stopOne()
	}
}

func (h *heartbeat) stopOne() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.timer.Stop()
}

// subsetOrAll returns some of all, or all if is is nil.
func subsetOrAll[T any](all []T, is []int) []T {
	if is == nil {
		return all
	}
	return subset(all, is)
}
