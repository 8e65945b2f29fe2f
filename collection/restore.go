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

// loadResult is the result of a flight.
type loadResult[T any] struct {
	value     T
	local     bool  // this process has loaded v
	startedAt int64 // the tick at which that load began
	leased    bool  // it held the lease
	storedAt  int64 // the tick at which the store was sent; 0: it is not stored
	unchanged bool  // no other write came in between: v is what Redis held at storedAt
}

// restore acquires the lease on a collection and loads it, or waits for the
// holder of the lease. It runs in one flight, which the callers of this process
// share. If Redis is down, which the reader may already know, it still loads,
// and stores nothing.
func (h *store[K, T]) restore(ctx context.Context, k string, key K, s readState, down bool, part *participant) (loadResult[T], error) {
	defer part.leave()
	var badToken []byte
	if s.token != (entry.Token{}) {
		badToken = s.token[:]
	}
	wait := h.wakes.Expect(k, k)
	defer wait.End()
	self := waitfor.From(ctx)
	defer self.AwaitLease(entry.Token{})
	poll := wake.NewPoll(time.Now(), h.expectedLoad(), 0, h.lease)
	for waits := false; ; waits = true {
		got, holder, err := h.attemptWithSlot(ctx, k, key, badToken, down, part)
		if holder == nil {
			return got, err
		}
		part.leave() // the others of the convoy must not wait for it
		if !waits {
			h.stats.waits.Add(1)
		}
		self.AwaitLease(*holder)
		wait.Until(ctx, &poll)
		self.AwaitLease(entry.Token{})
		if ctx.Err() != nil {
			return loadResult[T]{}, context.Cause(ctx)
		}
	}
}

// expectedLoad returns the average duration of the loads so far; 0 if there
// were none.
func (h *store[K, T]) expectedLoad() time.Duration {
	loads := h.stats.loads.Load()
	if loads == 0 {
		return 0
	}
	return time.Duration(h.stats.loadTime.Load() / loads)
}

// attemptWithSlot is attempt within MaxLoads. It frees its slot however Up
// ends.
func (h *store[K, T]) attemptWithSlot(ctx context.Context, k string, key K, badToken []byte, down bool, part *participant) (got loadResult[T], holder *entry.Token, err error) {
	free, err := h.takeSlot(ctx, part)
	if err != nil {
		return got, nil, err
	}
	defer free()
	return h.attempt(ctx, k, key, badToken, down, part)
}

// attempt does the work of restore, without waiting. If another process holds
// the lease, holder is its token, or zero if the token is unknown.
func (h *store[K, T]) attempt(ctx context.Context, k string, key K, badToken []byte, down bool, part *participant) (got loadResult[T], holder *entry.Token, err error) {
	if down || h.breakerErr(k) != nil {
		got, err = h.loadUnleased(ctx, k, key)
		return got, nil, err
	}
	token := entry.NewToken()
	granted, other, err := h.acquire(ctx, k, token, badToken, part)
	switch {
	case ctx.Err() != nil:
		if granted == "G" || script.Unknown(err) {
			h.release(ctx, k, token)
		}
		return got, nil, context.Cause(ctx)
	case err != nil:
		if script.Unknown(err) { // else the fleet would wait for a lease without a holder
			// In the background, since it may take as long again.
			h.flights.Spawn(guard.Client, func() error { h.release(ctx, k, token); return nil }, func(error) {})
		}
		got, err = h.loadUnleased(ctx, k, key)
		return got, nil, err
	case granted == "V":
		return got, nil, nil
	case granted == "G":
		got, err = h.load(ctx, k, key, token, part)
		return got, nil, err
	}
	return got, &other, nil
}

// takeSlot waits for a slot of MaxLoads, and returns a function that frees it.
// A nested load needs no slot: the load that waits for it holds one, which may
// be the last. A queued load is admitted once a load with a slot waits for it.
func (h *store[K, T]) takeSlot(ctx context.Context, part *participant) (free func(), err error) {
	self := waitfor.From(ctx)
	if h.slots == nil || self.Nested() {
		return func() {}, nil
	}
	in := h.slots.TryEnter(self)
	if !in {
		part.leave() // the others of the convoy must not wait for it
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

// acquire asks for the lease. If another process holds it, holder is its token.
// For a Set that token is zero.
func (h *store[K, T]) acquire(ctx context.Context, k string, token entry.Token, badToken []byte, part *participant) (granted string, holder entry.Token, err error) {
	hint := ""
	if h.wakes.Hears() {
		hint = "1"
	}
	call := &script.Call{Script: h.scripts.Acquire, Key: k, Args: []any{token[:], h.lease.Milliseconds(), badToken, hint}}
	h.send(ctx, call, part, false, longestWait)
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

// loadUnleased loads without a lease.
func (h *store[K, T]) loadUnleased(ctx context.Context, k string, key K) (loadResult[T], error) {
	got := loadResult[T]{local: true, startedAt: h.clock.Add(1)}
	var err error
	got.value, _, err = h.callUp(ctx, k, key)
	return got, err
}

// load calls Up under the lease and stores the result.
func (h *store[K, T]) load(ctx context.Context, k string, key K, token entry.Token, part *participant) (got loadResult[T], err error) {
	beat, stop := context.WithCancel(ctx)
	stopped := make(chan struct{})
	// It ends with stop, which load waits for, or with the flight.
	guard.Go(guard.Client, func() error { h.heartbeat(beat, k, token); return nil }, func(error) { close(stopped) })
	defer func() { // not only after Up, which may not return
		stop()
		<-stopped
		if got.storedAt == 0 {
			h.release(ctx, k, token)
		}
	}()
	waitfor.From(ctx).Hold(token)
	defer waitfor.Release(token)
	part.beginLoad()
	began, tick := time.Now(), h.clock.Add(1)
	v, args, err := h.callUp(ctx, k, key)
	if err != nil {
		return loadResult[T]{}, err
	}
	took := time.Since(began)
	got = loadResult[T]{value: v, local: true, startedAt: tick, leased: true}
	part.endLoad()
	if ctx.Err() == nil {
		sent := h.clock.Add(1)
		if stored, whole := h.storeLoaded(ctx, k, token, args, took, part); stored {
			got.storedAt, got.unchanged = sent, whole
		}
	}
	return got, nil
}

// callUp calls Up, and normalizes its result.
func (h *store[K, T]) callUp(ctx context.Context, k string, key K) (T, []any, error) {
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
	return h.normalize(k, v)
}

// heartbeat renews a lease until ctx ends or the lease is lost.
func (h *store[K, T]) heartbeat(ctx context.Context, k string, token entry.Token) {
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

// release gives a lease back, so that the next reader need not wait for its
// expiry.
func (h *store[K, T]) release(ctx context.Context, k string, token entry.Token) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.lease)
	defer cancel()
	_, _ = h.write(ctx, h.scripts.Release, k, []any{token[:]}) // on failure the lease expires
}

// maxArgs is the number of arguments of one script, an even number. A longer
// script would block the server for other clients.
const maxArgs = 1000

// storeLoaded stores a loaded collection. It reports whether the lease was
// still held, and whether no other write came in between.
func (h *store[K, T]) storeLoaded(ctx context.Context, k string, token entry.Token, args []any, took time.Duration, part *participant) (stored, unchanged bool) {
	if len(args) > maxArgs {
		part.leave() // it takes several round trips
	}
	for {
		chunk := args[:min(len(args), maxArgs)]
		args = args[len(chunk):]
		last := len(args) == 0
		all := append([]any{token[:], last, h.lease.Milliseconds(), millis(h.ttl), h.limit, h.unique}, chunk...)
		call := &script.Call{Script: h.scripts.Store, Key: k, Args: all}
		h.send(ctx, call, part, true, min(max(took, shortestWait), longestWait))
		n, ok := call.Reply.(int64)
		switch {
		case call.Err == nil && n == 4 && last:
			part.leave()
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
