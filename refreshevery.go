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

// MinEvery is the shortest period of RefreshEvery. Who wants to be more up to date
// than that should Set the value when it changes.
const MinEvery = engine.MinPeriod

const (
	maxRefreshes = 16  // calls of Up or UpMany that a RefreshEvery has under way at once
	maxChunk     = 100 // keys in one call of UpMany
)

var errNoKeys = errors.New("no keys")

// RefreshEvery reloads the values of keys in the background: at once, and then in
// every period of every, until ctx ends. It blocks, and is meant for a goroutine
// of its own, in each process of the fleet.
//
// Each key is loaded once a period for the whole fleet, however many processes
// call RefreshEvery. Periods are counted from the first load, so they do not drift
// with what Up takes. That a Get has loaded the value meanwhile makes no
// difference. If the process that loads a key dies, another one takes over within
// Spec.LeaseTTL; if its RefreshEvery ends, within a third of that. In each period
// one other process looks whether the key was loaded; if that one died too, the key
// is taken over in the next period, or in one of those after it. Whatever else
// died, a process that is left looks within a minute, or two periods if that is
// longer. Choose a TTL
// longer than every and what Up takes, twice every say, or there is no value
// between the two.
//
// At most 16 calls of Up are under way in this process, or Spec.MaxLoads if that
// is less; or of UpMany, if there is one, each with up to 100 keys, or
// Spec.MaxKeys if that is less. One that hangs
// has one of these places until Spec.UpTimeout ends it; keys that are not in it are
// reloaded on time meanwhile. An Up that fails has used up the
// turn of its key: the value stays for the rest of its TTL, and the next try is in
// the next period. An Up that takes longer than a period costs the turns that came
// meanwhile. Where Redis does not answer, nothing is reloaded until it does. Stats
// count all that, and RefreshEvery goes on.
//
// Whose turn it is stands in Redis in a key of its own: Cache.Key with ":%every"
// after it, which no key of a template ends with unless the template itself does.
// A KeyFunc must not return it. If it is deleted, periods are counted from the next
// load, which comes when the next one was due at the latest, and a load that was
// under way may be repeated.
//
// every is whole milliseconds, at least MinEvery, and the same in all of the
// fleet. A key that is there twice counts once. The error is an *Error and never
// nil: the cause of the end of ctx; ErrClosed after Close, which ends
// RefreshEvery and waits for it; and at once if anything is wrong with every or a
// key, if there are no keys, or no Up. When it returns, no Up that heeds its ctx is
// under way, and turns not used are given back.
func (c *Cache[K, V]) RefreshEvery(ctx context.Context, every time.Duration, keys ...K) error {
	k := c.keyed
	return k.core.refreshEvery(ctx, every, &typedKeys[K]{c: k, keys: keys, any: k.upMany == nil}) // UpMany returns a map
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

	turns := c.engine.Turns()
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

// reload is refresh for a refresher that comes round every so often: for some keys, or
// for one if there is no UpMany. It returns the first error.
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

// turnSuffix makes the key of a turn of that of an entry. In what a template
// renders for a value, two hexadecimal digits come after '%'.
const turnSuffix = ":%every"

// turnKey returns the key of the record that says whose turn it is to reload k.
func turnKey(rkey string) string { return rkey + turnSuffix }

// turnNames are keys that differ, by their places, with their entries and turns in Redis.
type turnSet struct {
	at      []int
	entries []string
	turns   []string
}

// turnsOf renders keys.
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
