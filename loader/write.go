package loader

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
)

// A Writing is a value to be written.
type Writing struct {
	Key     string
	Payload []byte // of a codec: see Loader.Encode
	Life    Life
}

// WriteMany is Write for several keys, in one round trip for each 500. It returns
// an error for each, nil where all is well.
func (l *Leases) WriteMany(ctx context.Context, ws []Writing) []error {
	calls := make([]*script.Call, len(ws))
	for i, w := range ws {
		calls[i] = l.writing(w.Key, w.Payload, w.Life)
	}
	return pipeline(ctx, l.rdb, calls)
}

// ExpireMany is Expire for several keys, in one round trip for each 500. It
// returns an error for each, nil where all is well.
func (l *Leases) ExpireMany(ctx context.Context, keys []string) []error {
	calls := make([]*script.Call, len(keys))
	for i, key := range keys {
		calls[i] = l.expiring(key)
	}
	return pipeline(ctx, l.rdb, calls)
}

// Delete takes the entries of keys away, and leases with them, in one round trip. It
// sends one command a key, since keys may live on different nodes, and returns an
// error for each, nil where all is well.
func (l *Leases) Delete(ctx context.Context, keys []string) []error {
	errs := make([]error, len(keys))
	if len(keys) == 1 {
		errs[0] = l.unlinked(l.unlink(ctx, l.rdb, keys[0]))
		return errs
	}
	cmds := make([]*redis.IntCmd, len(keys))
	_, err := l.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			cmds[i] = l.unlink(ctx, p, key)
		}
		return nil
	})
	refused := err != nil // by a hook, of all of them, and they have no error of their own
	for i, cmd := range cmds {
		errs[i] = l.unlinked(cmd)
		refused = refused && cmd.Err() == nil
	}
	for i := range errs {
		if refused {
			errs[i] = err
		}
	}
	return errs
}

// pipeline runs calls that reply 0 or 1, and returns the error of each.
func pipeline(ctx context.Context, rdb redis.UniversalClient, calls []*script.Call) []error {
	convoy.Run(ctx, rdb, calls)
	errs := make([]error, len(calls))
	for i, c := range calls {
		_, errs[i] = number(c, 1)
	}
	return errs
}

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
	detached := context.WithoutCancel(ctx)
	returned := false
	defer func() {
		if !returned { // down has panicked, or called runtime.Goexit
			l.unsettle(detached, keys, tokens)
		}
	}()
	copy(errs, down(context.WithValue(ctx, attemptKey{}, at)))
	returned = true
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
