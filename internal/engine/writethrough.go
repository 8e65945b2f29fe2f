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

// WriteThrough persists values by down, which returns one error for each, nil
// on success. It then stores the values that were persisted. It returns one
// error for each: of down; or of Redis, although the value is then persisted.
//
// Two concurrent writers of a key may persist in one order and store in the
// other. A cache would then show for long a value that the source no longer
// has. So each writer takes the lease first, which fences its previous holder,
// and stores under its token. A writer that has lost the lease in the end
// deletes the key. Of writes that overlap, all but one lose it, and the last
// one to take the lease keeps it. If that one stores before another deletes,
// its value is deleted; if after, it is fenced. Either way the next reader
// loads the value of the source. A gap remains only if a process dies between
// down and its deletion.
//
// The leases are extended while down runs, so down may take longer than they
// hold.
//
// If down fails, it is unknown whether it has persisted anything. The previous
// value is expired, and the next reader loads.
func (l *Engine) WriteThrough(ctx context.Context, ws []Write, down func(context.Context) []error) []error {
	t := &throughWrite{l: l, ws: ws, keys: make([]string, len(ws)), tokens: make([]Token, len(ws)), granted: make([]bool, len(ws))}
	for i, w := range ws {
		t.keys[i], t.tokens[i] = w.Key, entry.NewToken()
	}
	defer l.Forget(t.keys...) // last of all: callers that join a load from now on must see the value
	began := time.Now()
	defer t.stopHeartbeats()
	leases := t.acquire(ctx, began)
	state := &loadState{lease: func(key string) (Lease, bool) {
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
			t.stopHeartbeats()
			l.invalidateUnknown(detached, t.keys, t.tokens)
		}
	}()
	errs := make([]error, len(ws))
	copy(errs, down(context.WithValue(waitfor.With(ctx, self), loadStateKey{}, state)))
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
		l.invalidateUnknown(detached, subset(t.keys, failed), subset(t.tokens, failed))
	}
	// in one round trip, or several for large values; the leases of the others
	// are still extended
	for n, beat := range t.heartbeats {
		lost = append(lost, t.store(detached, n, errs, began)...)
		beat.stop()
	}
	for i, err := range l.deleteEach(detached, t.keys, lost) {
		errs[i] = err
	}
	return errs
}

// A throughWrite is the state of one WriteThrough.
type throughWrite struct {
	l          *Engine
	ws         []Write
	keys       []string
	tokens     []Token
	granted    []bool       // whether the key has a lease
	heartbeats []*heartbeat // one for each 500 keys
}

// leasedChunk returns the indices of the n-th 500 keys that have leases.
func (t *throughWrite) leasedChunk(n int) (is []int) {
	for i := n * convoy.Most; i < min((n+1)*convoy.Most, len(t.ws)); i++ {
		if t.granted[i] {
			is = append(is, i)
		}
	}
	return is
}

// acquire takes the leases, in one round trip for each 500, and starts their
// heartbeats at the end of that round trip. A lost lease is noticed when the
// value is stored.
func (t *throughWrite) acquire(ctx context.Context, began time.Time) map[string]Lease {
	l := t.l
	leases := make(map[string]Lease, len(t.ws))
	for some := range slices.Chunk(t.keys, convoy.Most) {
		n := len(t.heartbeats)
		calls := make([]*script.Call, len(some))
		for j, key := range some {
			calls[j] = l.leases.acquireCall(key, acquireRequest{token: t.tokens[n*convoy.Most+j], want: script.Now})
		}
		l.exec(ctx, calls)
		for j, c := range calls {
			i := n*convoy.Most + j
			a, err := acquireReply(t.tokens[i], c)
			if t.granted[i] = err == nil; t.granted[i] {
				leases[t.keys[i]] = Lease{Token: t.tokens[i], Entry: a.Entry, Sent: began}
			}
		}
		held := t.leasedChunk(n)
		t.heartbeats = append(t.heartbeats, l.newHeartbeats(ctx, len(held), func(j int) string { return t.keys[held[j]] }, func(is []int) ([]*script.Call, func()) {
			some := subsetOrAll(held, is)
			extends := make([]*script.Call, len(some))
			for j, i := range some {
				extends[j] = l.leases.extendCall(t.keys[i], t.tokens[i])
			}
			return extends, nil
		}))
	}
	return leases
}

// store stores the persisted values of the n-th 500 keys, and returns the
// indices of those that were not stored.
func (t *throughWrite) store(ctx context.Context, n int, errs []error, began time.Time) (lost []int) {
	var is []int
	var stores []*script.Call
	for _, i := range t.leasedChunk(n) {
		if errs[i] == nil {
			w := t.ws[i]
			is, stores = append(is, i), append(stores, t.l.leases.storeCall(w.Key, entry.Value, t.tokens[i], w.Payload, w.Life, began, 0))
		}
	}
	t.l.exec(ctx, stores)
	for j, i := range is {
		if v, err := storeReply(stores[j]); err != nil || v == Fenced {
			lost = append(lost, i)
		}
	}
	return lost
}

// stopHeartbeats stops all heartbeats.
func (t *throughWrite) stopHeartbeats() {
	for _, beat := range t.heartbeats {
		beat.stop()
	}
}

// invalidateUnknown expires keys whose value in the source is unknown, and
// gives their leases back.
func (l *Engine) invalidateUnknown(ctx context.Context, keys []string, tokens []Token) {
	calls := make([]*script.Call, len(keys))
	for i, key := range keys {
		calls[i] = l.leases.expireCall(key)
	}
	l.exec(ctx, calls)
	for i, key := range keys {
		calls[i] = l.leases.releaseCall(key, tokens[i], "", 0)
	}
	l.exec(ctx, calls)
}

// deleteEach deletes some keys, and returns the errors by index.
func (l *Engine) deleteEach(ctx context.Context, keys []string, is []int) map[int]error {
	if len(is) == 0 {
		return nil
	}
	errs := make(map[int]error)
	for some := range slices.Chunk(is, convoy.Most) {
		failed, err := callDetached(l, ctx, func(ctx context.Context) ([]error, error) { return l.leases.Delete(ctx, subset(keys, some)), nil })
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

func subset[T any](from []T, is []int) []T {
	some := make([]T, len(is))
	for j, i := range is {
		some[j] = from[i]
	}
	return some
}
