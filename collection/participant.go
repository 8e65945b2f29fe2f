package collection

import (
	"context"
	"time"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/script"
)

// participant is one restoration's part in the convoy of a batch: it acquires
// its lease, and stores, in round trips that the convoy shares. A nil
// participant, and one that has left, sends on its own. It is not safe for
// concurrent use.
type participant struct {
	convoy  *convoy.Convoy
	loading bool
	left    bool
}

// joinConvoy returns a participant of c, or nil if c is nil.
func joinConvoy(c *convoy.Convoy) *participant {
	if c == nil {
		return nil
	}
	c.Join()
	return &participant{convoy: c}
}

// detached reports whether p sends on its own.
func (p *participant) detached() bool { return p == nil || p.left }

// leave leaves the convoy. Further calls do nothing.
func (p *participant) leave() {
	if !p.detached() {
		p.endLoad()
		p.left = true
		p.convoy.Leave()
	}
}

// beginLoad tells the convoy that p loads, and endLoad that it has loaded.
func (p *participant) beginLoad() {
	if !p.detached() {
		p.loading = true
		p.convoy.Load()
	}
}

func (p *participant) endLoad() {
	if !p.detached() && p.loading {
		p.loading = false
		p.convoy.Loaded()
	}
}

// shortestWait and longestWait bound the wait for the other loads of the convoy
// before a store. The wait is as long as the load itself took.
const (
	shortestWait = 10 * time.Millisecond
	longestWait  = 50 * time.Millisecond
)

// send runs a script, in a round trip of the convoy if part has not left it. It
// waits for other participants at most patience; if loaded is set, also for
// those that load.
func (h *store[K, T]) send(ctx context.Context, call *script.Call, part *participant, loaded bool, patience time.Duration) {
	began := time.Now()
	if part.detached() {
		_ = call.Run(ctx, h.rdb) // the error is in call
	} else {
		part.convoy.Send(ctx, h.flights.Spawn, []*script.Call{call}, loaded, patience)
	}
	h.report(ctx, call.Key, began, call.Err)
}
