package engine

import (
	"context"
	"time"

	"github.com/cachex-go/cachex/internal/script"
)

// Refresh loads the value of key now, and returns it and its Outcome. Until
// then other callers get the current value. An active load, in any process,
// began before Refresh: its result is not stored. Callers in this process that
// come during the load share the next one. If the load fails, Refresh returns
// its error, and the current value stays. If Redis does not answer, the load
// runs, and nothing is stored.
func (l *Engine) Refresh(ctx context.Context, key string, load Func) (any, Outcome, error) {
	a := l.readIntent()
	a.want = script.Now
	w, err := l.flights.joinFresh(ctx, key, l.newKeyRunWith(key, 0, snapshot{}, a, asMany(load)))
	if err != nil {
		return nil, 0, err
	}
	res, _ := l.flights.wait(ctx, w, nil)
	l.stats.misses.Add(1)
	if res.err != nil {
		return nil, 0, res.err
	}
	return res.v, res.outcome, nil
}

// Reload is Refresh for periodic refreshers: it waits for an active load, here
// or in another process, and accepts its result. After a failed load, no
// process tries again before Options.Backoff, or before every if that is
// shorter. The current value stays, and Reload returns the error.
func (l *Engine) Reload(ctx context.Context, key string, every time.Duration, load Func) error {
	a := l.periodicIntent(every)
	w, err := l.flights.joinRefresh(ctx, key, l.newKeyRunWith(key, 0, snapshot{}, a, asMany(load)))
	if err != nil {
		return err
	}
	res, _ := l.flights.wait(ctx, w, nil)
	return res.err
}

// periodicIntent returns the intent of a refresher with this period. Its
// back-off is at most that of readers: a longer one would be taken for the
// fault of a clock.
func (l *Engine) periodicIntent(every time.Duration) intent {
	return intent{want: script.Due, pause: min(l.backoff, every), maxPause: min(every, max(l.backoff, MaxBackoff))}
}

// ReloadMany is Reload for several keys, which must differ, by one call of
// load. It returns one error for each key, nil if the key is reloaded.
func (l *Engine) ReloadMany(ctx context.Context, keys []string, every time.Duration, load ManyFunc) []error {
	r := &ManyRead{l: l, ctx: ctx, keys: keys, load: load, snapshots: make([]snapshot, len(keys))}
	r.intent = l.periodicIntent(every)
	is := make([]int, len(keys))
	for i := range is {
		is[i] = i
	}
	waiters, errs := r.joinFlights(is, joinRefresh)
	for i, w := range waiters {
		if w != nil {
			res, _ := l.flights.wait(ctx, w, nil)
			errs[i] = res.err
		}
	}
	return errs
}
