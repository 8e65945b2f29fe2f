package collection

import (
	"context"
	"time"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/script"
)

// A party is the part of one restoration in the convoy of a batch: it asks for its
// lease, and stores, in the round trips of the others. A nil one goes by itself, as
// does one that has left. It belongs to one goroutine at a time.
type party struct {
	c       *convoy.Convoy
	loading bool
	left    bool
}

// join returns a party in c; nil if there is no convoy.
func join(c *convoy.Convoy) *party {
	if c == nil {
		return nil
	}
	c.Join()
	return &party{c: c}
}

// gone reports whether it goes by itself.
func (p *party) gone() bool { return p == nil || p.left }

// leave leaves the others. It may be called again.
func (p *party) leave() {
	if !p.gone() {
		p.loaded()
		p.left = true
		p.c.Leave()
	}
}

// load says that it begins to load, and loaded that it has.
func (p *party) load() {
	if !p.gone() {
		p.loading = true
		p.c.Load()
	}
}

func (p *party) loaded() {
	if !p.gone() && p.loading {
		p.loading = false
		p.c.Loaded()
	}
}

// What was loaded waits for what the others load, for as long as it took to load
// itself, within these bounds.
const (
	shortestWait = 10 * time.Millisecond
	longestWait  = 50 * time.Millisecond
)

// send runs a script, with the other parties if there are any. It waits for them no
// longer than patience; and for those who load if it has loaded itself.
func (h *home[K, T]) send(ctx context.Context, call *script.Call, with *party, loaded bool, patience time.Duration) {
	began := time.Now()
	if with.gone() {
		_ = call.Run(ctx, h.rdb) // the error is in call
	} else {
		with.c.Send(ctx, h.flights.Spawn, []*script.Call{call}, loaded, patience)
	}
	h.note(ctx, call.Key, began, call.Err)
}
