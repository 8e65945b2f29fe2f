package collection

import (
	"context"
	"time"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/internal/waitfor"
	"github.com/cachex-go/cachex/internal/wake"
)

// loaded is what a flight returns.
type loaded[T any] struct {
	v      T
	here   bool  // v is what this process has loaded
	began  int64 // the tick when that load began
	leased bool  // it had the lease
	stored int64 // the tick when it was sent to be stored; 0: it is not stored
	whole  bool  // and nothing else had been written: v is what stood there then
}

// restore gets the lease on a collection and loads it, or waits for whoever has
// the lease. It is one flight: callers of this process share it. Where Redis does
// not answer, which the reader may know already, it loads all the same, and stores
// nothing.
func (h *home[K, T]) restore(ctx context.Context, k string, key K, s sight, away bool, with *party) (loaded[T], error) {
	defer with.leave()
	var unfit []byte
	if s.token != (entry.Token{}) {
		unfit = s.token[:]
	}
	wait := h.wakes.Expect(k, k)
	defer wait.End()
	self := waitfor.From(ctx)
	defer self.AwaitLease(entry.Token{})
	poll := wake.NewPoll(time.Now(), h.expect(), 0, h.lease)
	for waits := false; ; waits = true {
		got, holder, err := h.placed(ctx, k, key, unfit, away, with)
		if holder == nil {
			return got, err
		}
		with.leave() // the others shall not wait with us
		if !waits {
			h.stats.waits.Add(1)
		}
		self.AwaitLease(*holder)
		wait.Until(ctx, &poll)
		self.AwaitLease(entry.Token{})
		if ctx.Err() != nil {
			return loaded[T]{}, context.Cause(ctx)
		}
	}
}

// expect returns what a load is going to take, by those that have ended.
func (h *home[K, T]) expect() time.Duration {
	loads := h.stats.loads.Load()
	if loads == 0 {
		return 0
	}
	return time.Duration(h.stats.loadTime.Load() / loads)
}

// placed is attempt with one of MaxLoads, which is given back whatever Up does.
func (h *home[K, T]) placed(ctx context.Context, k string, key K, unfit []byte, away bool, with *party) (got loaded[T], holder *entry.Token, err error) {
	free, err := h.takeSlot(ctx, with)
	if err != nil {
		return got, nil, err
	}
	defer free()
	return h.attempt(ctx, k, key, unfit, away, with)
}

// attempt does what restore does, without waiting. If another process has the lease,
// holder is its token, or zero if the token is not known.
func (h *home[K, T]) attempt(ctx context.Context, k string, key K, unfit []byte, away bool, with *party) (got loaded[T], holder *entry.Token, err error) {
	if away || h.refusal(k) != nil {
		got, err = h.alone(ctx, k, key)
		return got, nil, err
	}
	token := entry.NewToken()
	granted, other, err := h.acquire(ctx, k, token, unfit, with)
	switch {
	case ctx.Err() != nil:
		if granted == "G" || script.Unknown(err) {
			h.release(ctx, k, token)
		}
		return got, nil, context.Cause(ctx)
	case err != nil:
		if script.Unknown(err) { // or the fleet would wait for a lease that nobody has
			// Apart, since it may take as long again.
			h.flights.Spawn(guard.Client, func() error { h.release(ctx, k, token); return nil }, func(error) {})
		}
		got, err = h.alone(ctx, k, key)
		return got, nil, err
	case granted == "V":
		return got, nil, nil
	case granted == "G":
		got, err = h.load(ctx, k, key, token, with)
		return got, nil, err
	}
	return got, &other, nil
}

// takeSlot waits for one of MaxLoads, and returns what gives it back. A load that a
// load of ours has asked for goes without: the one that waits for it has a slot, and
// might have the last. So does one that such a load waits for by now.
func (h *home[K, T]) takeSlot(ctx context.Context, with *party) (free func(), err error) {
	self := waitfor.From(ctx)
	if h.slots == nil || self.Nested() {
		return func() {}, nil
	}
	in := h.slots.TryEnter(self)
	if !in {
		with.leave() // the others shall not wait with us
		if in, err = h.slots.Enter(ctx, self); err != nil {
			return nil, err
		}
	}
	return func() {
		if in {
			h.slots.Leave(self)
		}
	}, nil
}

// acquire asks for the lease. If another process has it, holder is its token, which is
// zero of a set.
func (h *home[K, T]) acquire(ctx context.Context, k string, token entry.Token, unfit []byte, with *party) (granted string, holder entry.Token, err error) {
	hint := ""
	if h.wakes.Hears() {
		hint = "1"
	}
	call := &script.Call{Script: h.scripts.Acquire, Key: k, Args: []any{token[:], h.lease.Milliseconds(), unfit, hint}}
	h.send(ctx, call, with, false, longestWait)
	if call.Err != nil {
		return "", holder, call.Err
	}
	parts, _ := call.Reply.([]any)
	if len(parts) != 2 {
		return "", holder, errReply
	}
	text, ok := parts[1].(string)
	granted, _ = parts[0].(string)
	switch {
	case granted == "W" && len(text) == len(holder):
		copy(holder[:], text)
		return granted, holder, nil
	case ok && text == "" && (granted == "G" || granted == "V"):
		return granted, holder, nil
	}
	return "", holder, errReply
}

// alone loads without a lease.
func (h *home[K, T]) alone(ctx context.Context, k string, key K) (loaded[T], error) {
	got := loaded[T]{here: true, began: h.ticks.Add(1)}
	var err error
	got.v, _, err = h.call(ctx, k, key)
	return got, err
}

// load calls Up under the lease and stores what it returns.
func (h *home[K, T]) load(ctx context.Context, k string, key K, token entry.Token, with *party) (got loaded[T], err error) {
	beat, stop := context.WithCancel(ctx)
	still := make(chan struct{})
	// Ends with stop, which load waits for, or with the flight.
	guard.Go(guard.Client, func() error { h.heartbeat(beat, k, token); return nil }, func(error) { close(still) })
	defer func() { // and not after Up, which may not return
		stop()
		<-still
		if got.stored == 0 {
			h.release(ctx, k, token)
		}
	}()
	waitfor.From(ctx).Hold(token)
	defer waitfor.Release(token)
	with.load()
	began, tick := time.Now(), h.ticks.Add(1)
	v, args, err := h.call(ctx, k, key)
	if err != nil {
		return loaded[T]{}, err
	}
	took := time.Since(began)
	got = loaded[T]{v: v, here: true, began: tick, leased: true}
	with.loaded()
	if ctx.Err() == nil {
		sent := h.ticks.Add(1)
		if stored, whole := h.store(ctx, k, token, args, took, with); stored {
			got.stored, got.whole = sent, whole
		}
	}
	return got, nil
}

// call calls Up, and makes of what that returns what is stored.
func (h *home[K, T]) call(ctx context.Context, k string, key K) (T, []any, error) {
	began, failed := time.Now(), true
	defer func() { // also after a panic
		h.stats.loads.Add(1)
		h.stats.loadTime.Add(int64(time.Since(began)))
		if failed {
			h.stats.loadFailures.Add(1)
		}
	}()
	v, err := h.up(ctx, key)
	if failed = err != nil; failed {
		var zero T
		return zero, nil, err
	}
	return h.tidy(k, v)
}

// heartbeat renews a lease until ctx ends or the lease is lost.
func (h *home[K, T]) heartbeat(ctx context.Context, k string, token entry.Token) {
	tick := time.NewTicker(h.lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if held, err := h.write(ctx, h.scripts.Extend, k, []any{token[:], h.lease.Milliseconds()}); err == nil && held == int64(0) {
			return
		}
	}
}

// release gives a lease back, so that the next reader need not wait for its end.
func (h *home[K, T]) release(ctx context.Context, k string, token entry.Token) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.lease)
	defer cancel()
	_, _ = h.write(ctx, h.scripts.Release, k, []any{token[:]}) // else it runs out
}

// page is how many arguments go out in one script, an even number: a longer one
// would keep other clients of the server waiting.
const page = 1000

// store puts what was loaded in place. It reports whether the lease held, and whether
// nothing else had been written.
func (h *home[K, T]) store(ctx context.Context, k string, token entry.Token, args []any, took time.Duration, with *party) (stored, whole bool) {
	if len(args) > page {
		with.leave() // it takes several round trips
	}
	for {
		part := args[:min(len(args), page)]
		args = args[len(part):]
		last := len(args) == 0
		all := append([]any{token[:], last, h.lease.Milliseconds(), millis(h.ttl), h.most, h.unique}, part...)
		call := &script.Call{Script: h.scripts.Store, Key: k, Args: all}
		h.send(ctx, call, with, true, min(max(took, shortestWait), longestWait))
		n, ok := call.Reply.(int64)
		switch {
		case call.Err == nil && n == 4 && last:
			with.leave()
		case call.Err != nil, !ok, n < 0, n > 3:
			h.stats.redisFailures.Add(1)
			return false, false
		case n == 0:
			h.stats.fenced.Add(1)
			return false, false
		case last:
			return true, n == 3
		}
	}
}
