package loader

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// A heartbeat renews leases that were granted in one round trip: every third of the
// time that they hold, from when it is started until stop.
//
// Its timer costs no goroutine before it fires, which it does not while a load is
// quick.
type heartbeat[V any] struct {
	l        *Loader[V]
	extend   func() []*script.Call // what one beat sends
	answered func([]*script.Call)  // called under mu, with what it was answered; nil
	send     func([]*script.Call)

	mu    sync.Mutex
	timer *time.Timer // guarded by mu
	ended bool        // guarded by mu
}

// beating starts a heartbeat. extend returns what renews the leases, and answered, unless
// it is nil, is told the answers, but not after stop has returned. Both may run on a
// goroutine of the Loader. What is under way when ctx ends or stop is called is left.
func (l *Loader[V]) beating(ctx context.Context, extend func() []*script.Call, answered func([]*script.Call)) *heartbeat[V] {
	h := &heartbeat[V]{l: l, extend: extend, answered: answered}
	h.send = func(calls []*script.Call) { l.send(ctx, calls) }
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = time.AfterFunc(l.leases.ttl/3, h.beat)
	return h
}

// beat renews the leases once, and has the timer fire again when the answer is there.
func (h *heartbeat[V]) beat() {
	if h.over() {
		return
	}
	var calls []*script.Call
	h.l.Spawn(guard.Client, func() error { // ends with the answer
		calls = h.extend()
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
		if h.answered != nil {
			h.answered(calls)
		}
		h.timer.Reset(h.l.leases.ttl / 3)
	})
}

// over reports whether stop was called.
func (h *heartbeat[V]) over() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ended
}

// stop ends the heartbeat, unless it is nil. It may be called again.
func (h *heartbeat[V]) stop() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.timer.Stop()
}
