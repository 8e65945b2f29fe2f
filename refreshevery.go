package cachex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/key"
)

// MinEvery is the shortest period of RefreshEvery. For fresher values, call Set
// when the value changes.
const MinEvery = engine.MinPeriod

const (
	maxRefreshes = 16  // concurrent calls of Up or UpMany per RefreshEvery
	maxChunk     = 100 // keys in one call of UpMany
)

var errNoKeys = errors.New("no keys")

// RefreshEvery reloads the values of keys in the background: at once, and then
// once per period of every, until ctx ends. It blocks. Run it on its own
// goroutine in each process of the fleet.
//
// Each key is loaded once per period for the whole fleet, no matter how many
// processes call RefreshEvery. Periods are counted from the first load, so they
// do not drift with the time that Up takes. A load by Get in between changes
// nothing. Choose a TTL longer than every plus the time of Up, for example
// twice every. Otherwise there is no value between the two.
//
// If the process that loads a key dies, another one takes over within
// Spec.LeaseTTL; if its RefreshEvery ends, within a third of that. In each
// period, one other process checks whether the key was loaded. If that process
// died too, the key is taken over in the next period or a later one. However
// many processes die, a remaining one checks within a minute, or within two
// periods if that is longer.
//
// At most 16 calls of Up run at the same time in this process, or Spec.MaxLoads
// if that is less. With UpMany, the same limit applies to its calls, each with
// up to 100 keys, or Spec.MaxKeys if that is less. A call that hangs occupies
// one of these places until Spec.UpTimeout ends it; meanwhile, keys of other
// calls are reloaded on time. An Up that fails has used the turn of its key:
// the value stays for the rest of its TTL, and the next try is in the next
// period. An Up that takes longer than a period misses the turns in between. If
// Redis does not answer, nothing is reloaded until it does. Stats counts all of
// this, and RefreshEvery continues.
//
// The turn of a key is recorded in Redis under its own key: Cache.Key followed
// by ":%every". No key of a template ends with that, unless the template itself
// does, and a KeyFunc must not return it. If the record is deleted, periods are
// counted from the next load, which happens no later than it was due. A load in
// flight may then be repeated.
//
// every is whole milliseconds, at least MinEvery, and the same in the whole
// fleet. Duplicate keys count once. The error is an *Error and never nil: the
// cause of the end of ctx, or ErrClosed after Close, which ends RefreshEvery
// and waits for it. RefreshEvery returns an error at once if every or a key is
// invalid, if there are no keys, or if there is no Up. When it returns, no Up
// is running, unless it ignores its ctx, and unused turns are given back.
func (c *Cache[K, V]) RefreshEvery(ctx context.Context, every time.Duration, keys ...K) error {
	k := c.keyed
	return k.core.refreshEvery(ctx, every, &typedKeys[K]{c: k, keys: keys, any: k.upMany == nil}) // UpMany returns a map, whose keys must be hashable
}

func (c *core) refreshEvery(ctx context.Context, every time.Duration, from keySource) error {
	const op = "refresh every"
	names, bad := newTurnSet(from)
	if err := c.admit(ctx, op); err != nil {
		return err
	}
	defer c.calls.exit()
	switch {
	case !c.hasUp:
		return c.fail(op, "", errNoUp)
	case bad != nil:
		return c.fail(op, "", bad)
	case len(names.at) == 0:
		return c.fail(op, "", errNoKeys)
	}
	if err := engine.CheckPeriod(every); err != nil {
		return c.fail(op, "", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.closing, func() { cancel(ErrClosed) })()

	turns := c.engine.Periodic()
	turns.Places = min(maxRefreshes, cmp.Or(c.settings.maxLoads, maxRefreshes))
	if c.settings.upMany {
		turns.Chunk = min(maxChunk, c.settings.maxKeys)
	}
	err := turns.Run(ctx, every, names.turns, func(ctx context.Context, due []int) error {
		is, entries := make([]int, len(due)), make([]string, len(due))
		for j, i := range due {
			is[j], entries[j] = names.at[i], names.entries[i]
		}
		return c.reload(ctx, every, from, is, entries)
	})
	return c.fail(op, "", err)
}

// reload loads keys whose turn has come, or one key if there is no UpMany. It
// returns the errors of the loads, joined.
func (c *core) reload(ctx context.Context, every time.Duration, from keySource, is []int, rkeys []string) error {
	if !c.settings.upMany {
		return c.engine.Reload(ctx, rkeys[0], every, func(ctx context.Context) (any, engine.Life, error) {
			one := from.load(ctx, is)[0]
			return one.Value, one.Life, one.Err
		})
	}
	_, load := c.loadPlan(from, is, 1)
	return errors.Join(c.engine.ReloadMany(ctx, rkeys, every, load)...)
}

// turnSuffix is appended to the key of an entry to make the key of its turn. In
// a rendered placeholder, '%' is followed by two hexadecimal digits, so no
// entry has such a key.
const turnSuffix = ":%every"

// turnKey returns the key of the turn to reload rkey.
func turnKey(rkey string) string { return rkey + turnSuffix }

// turnSet holds the distinct keys of a RefreshEvery: their indexes, and the
// Redis keys of their entries and turns.
type turnSet struct {
	at      []int
	entries []string
	turns   []string
}

// newTurnSet renders the keys. It returns the first error.
func newTurnSet(from keySource) (n turnSet, err error) {
	seen := make(map[string]bool, from.len())
	var buf []byte
	for i := range from.len() {
		if buf, err = from.append(buf[:0], i); err != nil {
			return n, err
		}
		rkey := string(buf)
		if seen[rkey] {
			continue
		}
		seen[rkey] = true
		turn := turnKey(rkey)
		if len(turn) > key.MaxLen {
			return n, fmt.Errorf("%w: %d bytes with %q, the limit is %d", key.ErrTooLong, len(turn), turnSuffix, key.MaxLen)
		}
		n.at, n.entries, n.turns = append(n.at, i), append(n.entries, rkey), append(n.turns, turn)
	}
	return n, nil
}
