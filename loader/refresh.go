package loader

import (
	"context"
	"errors"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// Refresh loads the value of key now, whatever there is, and returns it, and that
// it was loaded, or Redis bypassed. Meanwhile
// the value that was there is served. The load begins after the call of Refresh: if
// one is under way, here or in another process, what that one loads is not stored.
// Callers in this process who come during such a load share the next one.
//
// The error is the one of load, and the value that was there stays. Where Redis
// does not answer, load is called all the same, and nothing is stored.
func (l *Loader[V]) Refresh(ctx context.Context, key string, load Func[V]) (V, Outcome, error) {
	var zero V
	a := l.usual()
	a.want = script.Now
	m, err := l.flights.boardAnew(ctx, key, l.flown(key, 0, sight{}, a, one(load)))
	if err != nil {
		return zero, 0, err
	}
	res, _ := l.flights.wait(ctx, m, nil)
	l.stats.misses.Add(1)
	if res.err != nil {
		return zero, 0, res.err
	}
	return res.v, res.how, nil
}

// Reload is Refresh for a refresher that comes round every so often: a load that
// is under way, here or elsewhere, is as good as its own, and is waited for. After
// a load that failed, nobody tries again before the next round, or before that for
// Options.Backoff, if that is shorter; the value that was there stays, and the
// error is returned.
func (l *Loader[V]) Reload(ctx context.Context, key string, every time.Duration, load Func[V]) error {
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
func (l *Loader[V]) rounds(every time.Duration) aim {
	return aim{want: script.Due, pause: min(l.backoff, every), most: min(every, max(l.backoff, MaxBackoff))}
}

// ReloadMany is Reload for several keys, which must differ, by one call of load. It
// returns an error for each, nil where all is well.
func (l *Loader[V]) ReloadMany(ctx context.Context, keys []string, every time.Duration, load ManyFunc[V]) []error {
	r := &Reading[V]{l: l, ctx: ctx, keys: keys, load: load, sights: make([]sight, len(keys))}
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
func (l *Loader[V]) wait(ctx context.Context, key string, m *member[V]) *result[V] {
	return l.rescue(ctx, key, l.waitOut(ctx, key, m))
}

// rescue returns the value that is kept for failures in place of a timeout in
// which nothing was loaded.
func (l *Loader[V]) rescue(ctx context.Context, key string, res *result[V]) *result[V] {
	if res.vain && l.sie > 0 && ctx.Err() == nil && errors.Is(res.err, context.DeadlineExceeded) {
		// The timeout has ended the wait for a lease, or for one of MaxLoads: that is
		// no better than a load which takes too long.
		b, err := l.poll(ctx, key)
		var v V
		if s := l.see(key, b, err, true, time.Now(), &v); s.kind.served() || s.kind == old {
			return &result[V]{v: v, how: OutcomeStale}
		}
	}
	return res
}

// hasty reports whether the patience of callers ends before the load does. It is
// counted from when they wait for a flight.
func (l *Loader[V]) hasty() bool { return l.softTimeout > 0 && l.swr+l.sie > 0 }

func (l *Loader[V]) waitOut(ctx context.Context, key string, m *member[V]) *result[V] {
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
func (l *Loader[V]) waitLate(ctx context.Context, key string, m *member[V]) *result[V] {
	// The value is read now, and not when the call began: that would cost every
	// caller who joins a flight a GET. It is read in a goroutine, for the flight
	// may still be faster.
	kept := make(chan struct{})
	var v V
	l.flights.Spawn(guard.Codec, func() error {
		b, err := l.poll(ctx, key)
		var s sight
		if s = l.see(key, b, err, true, time.Now(), &v); s.kind.served() || s.kind == old {
			close(kept)
		}
		return nil
	}, func(error) {}) // without it, the caller waits for the flight
	res, done := l.flights.wait(ctx, m, kept)
	if done {
		return res
	}
	l.flights.linger(m)
	return &result[V]{v: v, how: OutcomeStale}
}
