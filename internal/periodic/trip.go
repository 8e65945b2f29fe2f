package periodic

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/saturate"
	"github.com/cachex-go/cachex/internal/script"
)

// A trip is one round trip, with the call of each turn.
type trip struct {
	turns []*turn
	calls []*script.Call
	sent  time.Time
	err   error // some of the calls were not answered
	known bool  // the calls may be read: the client is done with them
}

// ask sends one call for each turn: s, or what is due to one that is over.
func (r *run) ask(ch chan<- trip, s *script.Script, turns []*turn) {
	t := trip{turns: turns, calls: make([]*script.Call, len(turns)), sent: time.Now()}
	for n, turn := range turns {
		args := []any{string(turn.token[:]), r.lease.Milliseconds(), r.Every.Milliseconds()}
		call := s
		switch {
		case s == script.TakeTurn:
			args = append(args, r.longest, turn.bits())
		case s == nil && turn.back:
			call = script.ReturnTurn
		case s == nil:
			call = script.EndTurn
		}
		t.calls[n] = &script.Call{Script: call, Key: turn.key, Args: args}
	}
	limit := patience
	if s == script.ExtendTurn {
		limit = r.TTL / 4 // so that the next heartbeat is not late
	}
	// Ends within the limit; ch has room.
	r.Spawn(guard.Client, func() error {
		ctx, cancel := context.WithTimeoutCause(r.settled, limit, convoy.ErrSilent)
		defer cancel()
		t.err = r.send(ctx, t.calls)
		if t.known = t.err == nil || ctx.Err() == nil; t.known {
			for _, c := range t.calls {
				t.err = errors.Join(t.err, c.Err)
			}
		}
		if t.err != nil {
			r.Failed(t.err)
		}
		return nil
	}, func(err error) {
		if err != nil {
			t.err, t.known = err, false
		}
		ch <- t
	})
}

// send runs the calls in one round trip. If ctx ends first, it leaves them to the
// client, which heeds ctx or not: then they are not ours to read.
func (r *run) send(ctx context.Context, calls []*script.Call) error {
	ch := make(chan error, 1)
	r.Spawn(guard.Client, func() error { return script.Pipeline(ctx, r.RDB, calls) }, func(err error) { ch <- err })
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// answer returns what TakeTurn said to turn n, "" if nothing.
func (t *trip) answer(n int) (kind string, left time.Duration) {
	if !t.known || t.calls[n].Err != nil {
		return "", 0
	}
	parts, _ := t.calls[n].Reply.([]any)
	if len(parts) != 2 {
		return "", 0
	}
	kind, _ = parts[0].(string)
	ms, _ := parts[1].(int64)
	return kind, max(saturate.Millis(ms), 0)
}

// number returns what another script said to turn n, and whether it did.
func (t *trip) number(n int) (int64, bool) {
	if !t.known {
		return 0, false
	}
	i, ok := t.calls[n].Reply.(int64)
	return i, ok && t.calls[n].Err == nil
}

// turns are a heap: the first one is the first to be looked at.
type turns []*turn

// Len implements sort.Interface.
func (h turns) Len() int { return len(h) }

// Less implements sort.Interface.
func (h turns) Less(i, j int) bool { return h[i].at.Before(h[j].at) }

// Swap implements sort.Interface.
func (h turns) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *turns) Push(x any) { *h = append(*h, x.(*turn)) }

// Pop implements heap.Interface.
func (h *turns) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = slices.Delete(*h, last, last+1)
	return x
}
