package loader

import (
	"context"
	"time"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/internal/waitfor"
)

// WriteThrough persists values by down, which returns an error for each or nil,
// and then stores those that went well. It returns an error for each: of down, or
// of Redis, and then the value is persisted all the same.
//
// Two who write the same key at the same time may persist in one order and store
// in the other, and then a cache would show for long what the source no longer
// has. So each takes the lease first, which fences whoever had it, and stores
// under its token. Who finds it lost at the end deletes the key: of writes that
// overlap all but one find that, and the one that does not was the last to take
// the lease. If it stores before another one deletes, the value is deleted, and if
// after, it is fenced; either way the next reader loads what the source has. That
// leaves a gap only where a process dies between down and its deletion.
//
// The leases are renewed while down runs, so it may take longer than they hold.
//
// If down fails, nobody knows whether it has persisted anything. What was there is
// expired, for the next reader to load.
func (l *Loader[V]) WriteThrough(ctx context.Context, ws []Writing, down func(context.Context) []error) []error {
	keys, tokens := make([]string, len(ws)), make([]Token, len(ws))
	calls := make([]*script.Call, len(ws))
	began := time.Now()
	for i, w := range ws {
		keys[i], tokens[i] = w.Key, entry.NewToken()
		calls[i] = l.leases.acquiring(w.Key, claim{token: tokens[i], want: script.Now})
	}
	defer l.Forget(keys...) // after all: who joins a load from now on must see it
	l.send(ctx, calls)
	granted := make([]bool, len(ws))
	errs := make([]error, len(ws))
	leases := make(map[string]Lease, len(ws))
	for i, c := range calls {
		a, err := acquired(tokens[i], c)
		if granted[i] = err == nil; granted[i] {
			leases[keys[i]] = Lease{Token: tokens[i], Entry: a.Entry, Sent: began}
		}
	}
	at := &attempt{lease: func(key string) (Lease, bool) {
		l, ok := leases[key]
		return l, ok
	}}
	self := waitfor.New(ctx, nil)
	self.Hold(tokens...)
	defer waitfor.Release(tokens...)
	detached := context.WithoutCancel(ctx)
	stop := l.renew(ctx, calls, keys, tokens)
	defer stop()
	returned := false
	defer func() {
		if !returned { // down has panicked, or called runtime.Goexit
			l.unsettle(detached, keys, tokens)
		}
	}()
	copy(errs, down(context.WithValue(waitfor.With(ctx, self), attemptKey{}, at)))
	returned = true
	stop()
	var failed, lost, is []int
	var stores []*script.Call
	for i, w := range ws {
		switch {
		case errs[i] != nil:
			failed = append(failed, i)
		case granted[i]:
			is, stores = append(is, i), append(stores, l.leases.storing(w.Key, entry.Value, tokens[i], w.Payload, w.Life, began, 0))
		default:
			lost = append(lost, i)
		}
	}
	if len(failed) > 0 {
		l.unsettle(detached, pick(keys, failed), pick(tokens, failed))
	}
	l.send(detached, stores)
	for j, i := range is {
		if v, err := verdict(stores[j]); err != nil || v == Fenced {
			lost = append(lost, i)
		}
	}
	for i, err := range l.unlink(detached, keys, lost) {
		errs[i] = err
	}
	return errs
}

// renew renews the leases that acquired has granted every third of what they
// hold, until stop is called or ctx ends. A lease that is lost is found to be when
// the value is stored.
func (l *Loader[V]) renew(ctx context.Context, acquired []*script.Call, keys []string, tokens []Token) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var held []int
	for i, c := range acquired {
		if c.Err == nil {
			held = append(held, i)
		}
	}
	if len(held) == 0 {
		return cancel
	}
	ended := make(chan struct{})
	// Ends with stop, which WriteThrough calls and waits for.
	guard.Go(guard.Client, func() error {
		tick := time.NewTicker(l.leases.ttl / 3)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
			calls := make([]*script.Call, len(held))
			for j, i := range held {
				calls[j] = l.leases.extending(keys[i], tokens[i])
			}
			l.send(ctx, calls)
		}
	}, func(error) { close(ended) })
	return func() {
		cancel()
		<-ended
	}
}

// unsettle expires keys of which nobody knows what the source has, and gives their
// leases back.
func (l *Loader[V]) unsettle(ctx context.Context, keys []string, tokens []Token) {
	calls := make([]*script.Call, len(keys))
	for i, key := range keys {
		calls[i] = l.leases.expiring(key)
	}
	l.send(ctx, calls)
	for i, key := range keys {
		calls[i] = l.leases.releasing(key, tokens[i], "", 0)
	}
	l.send(ctx, calls)
}

// unlink deletes some keys, and returns the errors by their indices.
func (l *Loader[V]) unlink(ctx context.Context, keys []string, is []int) map[int]error {
	if len(is) == 0 {
		return nil
	}
	errs := make(map[int]error)
	failed, err := ask(l, ctx, func(ctx context.Context) ([]error, error) { return l.leases.Delete(ctx, pick(keys, is)), nil })
	for j, i := range is {
		one := err
		if err == nil {
			one = failed[j]
		}
		if one != nil {
			errs[i] = one
		}
	}
	return errs
}

func pick[T any](from []T, is []int) []T {
	some := make([]T, len(is))
	for j, i := range is {
		some[j] = from[i]
	}
	return some
}
