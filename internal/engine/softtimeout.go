package engine

import (
	"context"
	"errors"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
)

// waitWithin returns the result of the waiter's flight. If the flight takes
// longer than the soft timeout, and Redis has a value that StaleIfError allows,
// waitWithin returns that value. The flight goes on.
func (l *Engine) waitWithin(ctx context.Context, key string, w *waiter) *result {
	return l.serveStaleOnTimeout(ctx, key, l.waitSoft(ctx, key, w))
}

// serveStaleOnTimeout replaces a timeout in which nothing was loaded by the
// value kept for StaleIfError.
func (l *Engine) serveStaleOnTimeout(ctx context.Context, key string, res *result) *result {
	if res.notAttempted && l.sie > 0 && ctx.Err() == nil && errors.Is(res.err, context.DeadlineExceeded) {
		// The timeout ended the wait for a lease or for one of MaxLoads. To a
		// caller, that is no better than a load that takes too long.
		b, err := l.pollKey(ctx, key)
		v := l.codec.NewBox()
		if s := l.classifyReply(key, b, err, true, time.Now(), v); s.freshness.served() || s.freshness == errorOnly {
			return &result{v: v, outcome: OutcomeStale}
		}
	}
	return res
}

// hasSoftTimeout reports whether callers have a soft timeout. It starts when
// they begin to wait for a flight.
func (l *Engine) hasSoftTimeout() bool { return l.softTimeout > 0 && l.swr+l.sie > 0 }

func (l *Engine) waitSoft(ctx context.Context, key string, w *waiter) *result {
	if !l.hasSoftTimeout() {
		res, _ := l.flights.wait(ctx, w, nil)
		return res
	}
	over := make(chan struct{})
	timer := time.AfterFunc(l.softTimeout, func() { close(over) })
	defer timer.Stop()
	res, done := l.flights.wait(ctx, w, over)
	if done {
		return res
	}
	return l.waitOrStale(ctx, key, w)
}

// waitOrStale is waitWithin for a waiter whose soft timeout has ended.
func (l *Engine) waitOrStale(ctx context.Context, key string, w *waiter) *result {
	// Read the value now, and not when the call began: that would cost every
	// caller that joins a flight a GET. Read it in a goroutine, since the
	// flight may still be faster.
	kept := make(chan struct{})
	v := l.codec.NewBox()
	l.flights.Spawn(guard.Codec, func() error {
		b, err := l.pollKey(ctx, key)
		var s snapshot
		if s = l.classifyReply(key, b, err, true, time.Now(), v); s.freshness.served() || s.freshness == errorOnly {
			close(kept)
		}
		return nil
	}, func(error) {}) // without a value, the caller waits for the flight
	res, done := l.flights.wait(ctx, w, kept)
	if done {
		return res
	}
	l.flights.leaveRunning(w)
	return &result{v: v, outcome: OutcomeStale}
}
