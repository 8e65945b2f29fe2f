package engine

import (
	"context"
	"slices"
	"time"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/entry"
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
func (l *Engine) WriteThrough(ctx context.Context, ws []Writing, down func(context.Context) []error) []error {
	t := &through{l: l, ws: ws, keys: make([]string, len(ws)), tokens: make([]Token, len(ws)), granted: make([]bool, len(ws))}
	for i, w := range ws {
		t.keys[i], t.tokens[i] = w.Key, entry.NewToken()
	}
	defer l.Forget(t.keys...) // after all: who joins a load from now on must see it
	began := time.Now()
	defer t.still()
	leases := t.acquire(ctx, began)
	at := &attempt{lease: func(key string) (Lease, bool) {
		l, ok := leases[key]
		return l, ok
	}}
	self := waitfor.New(ctx, nil)
	self.Hold(t.tokens...)
	defer waitfor.Release(t.tokens...)
	detached := context.WithoutCancel(ctx)
	returned := false
	defer func() {
		if !returned { // down has panicked, or called runtime.Goexit
			t.still()
			l.unsettle(detached, t.keys, t.tokens)
		}
	}()
	errs := make([]error, len(ws))
	copy(errs, down(context.WithValue(waitfor.With(ctx, self), attemptKey{}, at)))
	returned = true
	var failed, lost []int
	for i := range ws {
		switch {
		case errs[i] != nil:
			failed = append(failed, i)
		case !t.granted[i]:
			lost = append(lost, i)
		}
	}
	if len(failed) > 0 {
		l.unsettle(detached, pick(t.keys, failed), pick(t.tokens, failed))
	}
	for n, beat := range t.beats { // one round trip each or, of large values, several; the leases are still renewed
		lost = append(lost, t.store(detached, n, errs, began)...)
		beat.stop()
	}
	for i, err := range l.unlink(detached, t.keys, lost) {
		errs[i] = err
	}
	return errs
}

// through is one WriteThrough.
type through struct {
	l       *Engine
	ws      []Writing
	keys    []string
	tokens  []Token
	granted []bool       // whether there was a lease
	beats   []*heartbeat // of each 500 keys
}

// portion returns the indices of the n-th 500 keys that have leases.
func (t *through) portion(n int) (is []int) {
	for i := n * convoy.Most; i < min((n+1)*convoy.Most, len(t.ws)); i++ {
		if t.granted[i] {
			is = append(is, i)
		}
	}
	return is
}

// acquire takes the leases, in one round trip for each 500, and has them renewed from the
// end of that round trip on. A lease that is lost is found to be when the value is stored.
func (t *through) acquire(ctx context.Context, began time.Time) map[string]Lease {
	l := t.l
	leases := make(map[string]Lease, len(t.ws))
	for some := range slices.Chunk(t.keys, convoy.Most) {
		n := len(t.beats)
		calls := make([]*script.Call, len(some))
		for j, key := range some {
			calls[j] = l.leases.acquiring(key, claim{token: t.tokens[n*convoy.Most+j], want: script.Now})
		}
		l.send(ctx, calls)
		for j, c := range calls {
			i := n*convoy.Most + j
			a, err := acquired(t.tokens[i], c)
			if t.granted[i] = err == nil; t.granted[i] {
				leases[t.keys[i]] = Lease{Token: t.tokens[i], Entry: a.Entry, Sent: began}
			}
		}
		held := t.portion(n)
		t.beats = append(t.beats, l.beating(ctx, len(held), func(j int) string { return t.keys[held[j]] }, func(is []int) ([]*script.Call, func()) {
			some := those(held, is)
			extends := make([]*script.Call, len(some))
			for j, i := range some {
				extends[j] = l.leases.extending(t.keys[i], t.tokens[i])
			}
			return extends, nil
		}))
	}
	return leases
}

// store stores the values of the n-th 500 keys that went well, and returns the indices of
// those that were not stored.
func (t *through) store(ctx context.Context, n int, errs []error, began time.Time) (lost []int) {
	var is []int
	var stores []*script.Call
	for _, i := range t.portion(n) {
		if errs[i] == nil {
			w := t.ws[i]
			is, stores = append(is, i), append(stores, t.l.leases.storing(w.Key, entry.Value, t.tokens[i], w.Payload, w.Life, began, 0))
		}
	}
	t.l.send(ctx, stores)
	for j, i := range is {
		if v, err := verdict(stores[j]); err != nil || v == Fenced {
			lost = append(lost, i)
		}
	}
	return lost
}

// still ends the heartbeats.
func (t *through) still() {
	for _, beat := range t.beats {
		beat.stop()
	}
}

// unsettle expires keys of which nobody knows what the source has, and gives their
// leases back.
func (l *Engine) unsettle(ctx context.Context, keys []string, tokens []Token) {
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
func (l *Engine) unlink(ctx context.Context, keys []string, is []int) map[int]error {
	if len(is) == 0 {
		return nil
	}
	errs := make(map[int]error)
	for some := range slices.Chunk(is, convoy.Most) {
		failed, err := ask(l, ctx, func(ctx context.Context) ([]error, error) { return l.leases.Delete(ctx, pick(keys, some)), nil })
		for j, i := range some {
			one := err
			if err == nil {
				one = failed[j]
			}
			if one != nil {
				errs[i] = one
			}
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
