package engine

import (
	"context"
	"errors"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// Refresh loads the value of key now, and returns it and its Outcome. Until then
// other callers get the current value. A load that is under way, in any process,
// began before Refresh: its result is not stored. Callers in this process that
// come during the load share the next one. If the load fails, Refresh returns its
// error, and the current value stays. If Redis does not answer, the load runs, and
// nothing is stored.
func (l *Engine) Refresh(ctx context.Context, key string, load Func) (any, Outcome, error) {
	a := l.usual()
	a.want = script.Now
	m, err := l.flights.boardAnew(ctx, key, l.flown(key, 0, sight{}, a, one(load)))
	if err != nil {
		return nil, 0, err
	}
	res, _ := l.flights.wait(ctx, m, nil)
	l.stats.misses.Add(1)
	if res.err != nil {
		return nil, 0, res.err
	}
	return res.v, res.how, nil
}

// Reload is Refresh for a refresher that calls it periodically: it accepts the
// result of a load that is under way, here or in another process, and waits for
// it. After a load that failed, no process tries again before Options.Backoff, or
// before every if that is shorter. The current value stays, and Reload returns the
// error.
func (l *Engine) Reload(ctx context.Context, key string, every time.Duration, load Func) error {
	a := l.rounds(every)
	m, err := l.flights.boardAside(ctx, key, l.flown(key, 0, sight{}, a, one(load)))
	if err != nil {
		return err
	}
	res, _ := l.flights.wait(ctx, m, nil)
	return res.err
}

// rounds returns the aim of a refresher that comes round every so often. No pause
// is longer than those of readers: a longer one would pass for a clock's fault.
func (l *Engine) rounds(every time.Duration) aim {
	return aim{want: script.Due, pause: min(l.backoff, every), most: min(every, max(l.backoff, MaxBackoff))}
}

// ReloadMany is Reload for several keys, which must differ, by one call of load.
// It returns an error for each key, nil if the key is reloaded.
func (l *Engine) ReloadMany(ctx context.Context, keys []string, every time.Duration, load ManyFunc) []error {
	r := &ManyRead{l: l, ctx: ctx, keys: keys, load: load, sights: make([]sight, len(keys))}
	r.aim = l.rounds(every)
	is := make([]int, len(keys))
	for i := range is {
		is[i] = i
	}
	members, errs := r.fly(is, refreshers)
	for i, m := range members {
		if m != nil {
			res, _ := l.flights.wait(ctx, m, nil)
			errs[i] = res.err
		}
	}
	return errs
}

// wait returns what the flight of m finds. If that takes longer than the patience
// of callers, and there is a value that may be served if there is no newer one,
// that is returned, and the flight goes on.
func (l *Engine) wait(ctx context.Context, key string, m *member) *result {
	return l.rescue(ctx, key, l.waitOut(ctx, key, m))
}

// rescue returns the value that is kept for failures in place of a timeout in
// which nothing was loaded.
func (l *Engine) rescue(ctx context.Context, key string, res *result) *result {
	if res.vain && l.sie > 0 && ctx.Err() == nil && errors.Is(res.err, context.DeadlineExceeded) {
		// The timeout has ended the wait for a lease, or for one of MaxLoads: that is
		// no better than a load which takes too long.
		b, err := l.poll(ctx, key)
		v := l.codec.NewBox()
		if s := l.see(key, b, err, true, time.Now(), v); s.kind.served() || s.kind == old {
			return &result{v: v, how: OutcomeStale}
		}
	}
	return res
}

// hasty reports whether the patience of callers ends before the load does. It is
// counted from when they wait for a flight.
func (l *Engine) hasty() bool { return l.softTimeout > 0 && l.swr+l.sie > 0 }

func (l *Engine) waitOut(ctx context.Context, key string, m *member) *result {
	if !l.hasty() {
		res, _ := l.flights.wait(ctx, m, nil)
		return res
	}
	over := make(chan struct{})
	timer := time.AfterFunc(l.softTimeout, func() { close(over) })
	defer timer.Stop()
	res, done := l.flights.wait(ctx, m, over)
	if done {
		return res
	}
	return l.waitLate(ctx, key, m)
}

// waitLate is wait for who has waited for the soft timeout.
func (l *Engine) waitLate(ctx context.Context, key string, m *member) *result {
	// The value is read now, and not when the call began: that would cost every
	// caller who joins a flight a GET. It is read in a goroutine, for the flight
	// may still be faster.
	kept := make(chan struct{})
	v := l.codec.NewBox()
	l.flights.Spawn(guard.Codec, func() error {
		b, err := l.poll(ctx, key)
		var s sight
		if s = l.see(key, b, err, true, time.Now(), v); s.kind.served() || s.kind == old {
			close(kept)
		}
		return nil
	}, func(error) {}) // without it, the caller waits for the flight
	res, done := l.flights.wait(ctx, m, kept)
	if done {
		return res
	}
	l.flights.linger(m)
	return &result{v: v, how: OutcomeStale}
}
