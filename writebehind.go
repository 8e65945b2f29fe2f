package cachex

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/errs"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

// Flush persists what is written behind: what was set, by whatever process, before the
// call of Flush. It does nothing without Spec.WriteBehind. The error is an *Error; what
// is then not persisted is still pending, and is tried again. A *writebehind.AsideError
// in its chain tells how many values the database refused for good meanwhile, and how
// many this process cannot read.
func (c *Cache[K, V]) Flush(ctx context.Context) error { return c.keyed.core.flush(ctx) }

func (c *core) flush(ctx context.Context) error {
	if err := c.admit(ctx, "flush"); err != nil {
		return err
	}
	defer c.calls.exit()
	if err := c.flushPending(ctx); err != nil {
		return c.fail("flush", "", err)
	}
	return nil
}

func (c *core) flushPending(ctx context.Context) error {
	drained := c.drain(ctx, false)
	if c.writeBehind == nil {
		return drained
	}
	return errors.Join(drained, c.writeBehind.Flush(ctx))
}

// drain sends what a kind keeps in this process.
func (c *core) drain(ctx context.Context, closing bool) error {
	if c.drainKind == nil {
		return nil
	}
	return c.drainKind(ctx, closing)
}

// Reconcile flushes what is written behind, and asks choose what becomes of each batch
// whose history has forked, as writebehind.Engine.Reconcile does: after a backup of Redis
// or of the database was restored, after the ledger was lost, or where one is given to a
// cache that had none. It returns the forks that it has found; choose nil holds all of
// them. It does nothing without Spec.WriteBehind. The error is an *Error; what is then
// not persisted is still in Redis.
func (c *Cache[K, V]) Reconcile(ctx context.Context, choose func(writebehind.ForkError) writebehind.Choice) ([]writebehind.ForkError, error) {
	return c.keyed.core.reconcile(ctx, choose)
}

func (c *core) reconcile(ctx context.Context, choose func(writebehind.ForkError) writebehind.Choice) ([]writebehind.ForkError, error) {
	if err := c.admit(ctx, "reconcile"); err != nil {
		return nil, err
	}
	defer c.calls.exit()
	err := c.drain(ctx, false)
	if c.writeBehind == nil {
		return nil, c.failUnlessNil("reconcile", err)
	}
	forks, failed := c.writeBehind.Reconcile(ctx, choose)
	return forks, c.failUnlessNil("reconcile", errors.Join(err, failed))
}

// namespace returns the name of the buckets of write-behind. It is made of all the
// literal text of the template, so that caches with different keys never share one, and
// not of the names of its placeholders, which may change. A placeholder is '*'; of the
// literal text, '*', '%', and what a name cannot have are escaped as in a URL.
func namespace(template string) string {
	var b strings.Builder
	for i, part := range strings.Split(template, "{") {
		if i > 0 {
			_, part, _ = strings.Cut(part, "}")
			b.WriteByte('*')
		}
		for _, c := range []byte(part) {
			if c == '*' || c == '%' || c <= ' ' || c == 0x7f {
				fmt.Fprintf(&b, "%%%02X", c)
			} else {
				b.WriteByte(c)
			}
		}
	}
	return b.String()
}

// behind makes the engine of Spec.WriteBehind.
func (c *keyed[K]) openWriteBehind() error {
	if err := c.core.openWriteBehind(c.persist, c.checkEntry); err != nil || c.kind != nil {
		if c.kind != nil {
			c.kind.Engine = c.core.writeBehind
		}
		return err
	}
	if c.up != nil || c.upMany == nil {
		c.up = c.withPending(c.up)
	}
	if c.upMany != nil {
		c.upMany = c.withPendingMany(c.upMany)
	}
	return nil
}

func (c *core) openWriteBehind(persist func(context.Context, ledger.Batch) error, check func(id string, value []byte) error) (err error) {
	o := c.settings.writeBehindOptions
	o.Name, o.Merge, o.Every = namespace(c.settings.key), writebehind.Last, c.settings.writeBehind
	o.Persist, o.Check = persist, check
	switch {
	case c.settings.counts:
		o.Merge = writebehind.Sum
	case !c.settings.downMany:
		o.MaxBatch = 1 // Ledger.Once of Down then records just its value
	}
	if c.writeBehind, err = writebehind.New(c.rdb, o); err != nil {
		return fmt.Errorf("Spec.WriteBehind: %w", err)
	}
	return nil
}

// setBehind writes values, and that they are to be persisted, in one round trip for
// each 500. It returns an error for each.
func (c *core) writeBehindMany(ctx context.Context, ws []engine.Writing) []error {
	c.writeBehind.Start()
	calls := make([]*script.Call, len(ws))
	rkeys := make([]string, len(ws))
	for i, w := range ws {
		id := withoutTag(w.Key)
		token, sum := entry.NewToken(), binary.BigEndian.AppendUint32(nil, entry.Sum(w.Key, w.Payload))
		keep, fresh := w.Life.Args()
		calls[i] = &script.Call{
			Script: script.WriteBehind, Key: w.Key, More: []string{c.writeBehind.Keys(c.writeBehind.Bucket(id)).Pending},
			Args: []any{token[:], keep, fresh, sum, w.Payload, writebehind.Field(id)},
		}
		rkeys[i] = w.Key
	}
	c.engine.Send(ctx, calls...)
	c.engine.Forget(rkeys...)
	errs := make([]error, len(ws))
	for i, call := range calls {
		errs[i] = writebehind.Written(call.Reply, call.Err)
	}
	return errs
}

// tagged returns the pattern and the test of keys that have the hash tag of write-behind,
// if they have.
func (c *core) tagMatcher(pattern string, match func(string) bool, err error) (string, func(string) bool, error) {
	if err != nil || c.writeBehind == nil {
		return pattern, match, err
	}
	glob := strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `^`, `\^`, `-`, `\-`, `\`, `\\`)
	return "{" + glob.Replace(namespace(c.settings.key)) + ":*}" + pattern, func(rkey string) bool {
		id := withoutTag(rkey)
		return rkey == c.writeBehind.Tag(id)+id && match(id)
	}, nil
}

// untagged returns the key without the hash tag of write-behind.
func withoutTag(rkey string) string {
	_, id, _ := strings.Cut(rkey, "}")
	return id
}

// wrapped returns up as Wrap calls it.
func (c *keyed[K]) wrapUp(up upBox[K]) upBox[K] {
	if c.core.writeBehind != nil && c.kind == nil {
		return c.withPending(up)
	}
	return up
}

// upPending is Up where values are written behind: what is still pending is newer than
// what the source has. That is asked first, and if nothing is pending, the source has
// all that was.
func (c *keyed[K]) withPending(up upBox[K]) upBox[K] {
	return func(ctx context.Context, key K) (any, error) {
		boxes, err := c.readPending(ctx, []K{key})
		if boxes[0] != nil {
			return boxes[0], nil
		}
		if up == nil {
			return nil, cmp.Or(err, ErrNotFound)
		}
		return up(ctx, key)
	}
}

// upManyPending is upPending for several keys.
func (c *keyed[K]) withPendingMany(up upManyBox[K]) upManyBox[K] {
	return func(ctx context.Context, keys []K) ([]any, error) {
		all, _ := c.readPending(ctx, keys)
		var others []K
		var at []int
		for i, key := range keys {
			if all[i] == nil {
				others, at = append(others, key), append(at, i)
			}
		}
		if len(others) == 0 {
			return all, nil
		}
		boxes, err := up(ctx, others)
		for j, i := range at {
			all[i] = boxes[j]
		}
		return all, err
	}
}

// pending returns the values of keys that the source may lack, in boxes; nil for those
// that it does not. Where Redis does not tell, or one of them cannot be decoded, by this
// version of a program say, what is loaded is returned to whoever asked and not stored.
func (c *keyed[K]) readPending(ctx context.Context, keys []K) ([]any, error) {
	return c.core.readPending(ctx, len(keys), func(i int) string {
		rkey, _ := c.render(keys[i]) // it was rendered before, for the call
		return withoutTag(rkey)
	})
}

// pending returns what the source may lack of n ids, in boxes; nil for an id of which it
// lacks nothing.
func (c *core) readPending(ctx context.Context, n int, id func(i int) string) ([]any, error) {
	c.writeBehind.Start()
	ids, boxes := make([]string, n), make([]any, n)
	for i := range ids {
		ids[i] = id(i)
	}
	seen, err := c.writeBehind.LookMany(ctx, ids)
	if err != nil {
		NoStore(ctx)
		return boxes, err
	}
	for i, s := range seen {
		payload := cmp.Or(s.Pending, s.InFlight)
		if payload == nil {
			continue
		}
		box, bad := c.decode(ids[i], []byte(*payload))
		if bad != nil {
			NoStore(ctx)
			err = cmp.Or(err, fmt.Errorf("what is pending: %w", bad)) // of the others, the pending values hold all the same
			continue
		}
		boxes[i] = box
	}
	return boxes, err
}

// decode returns the value of what is written behind under an id.
func (c *core) decode(id string, payload []byte) (any, error) {
	box := c.values.NewBox()
	return box, c.engine.Decode(c.writeBehind.Tag(id)+id, payload, box)
}

// check returns an error if this release cannot read an id, or its value: those of a
// template, a codec, or a key that is not its own. Another one persists them.
func (c *keyed[K]) checkEntry(id string, value []byte) error {
	if _, err := c.template.Parse(id); err != nil {
		return err
	}
	if c.kind != nil {
		return c.kind.Check(value)
	}
	_, err := c.core.decode(id, value)
	return err
}

// persist has Down persist a batch of what check can read.
func (c *keyed[K]) persist(ctx context.Context, b ledger.Batch) error {
	return c.core.observePersist(ctx, b, func(ctx context.Context, ids []string) error {
		if c.kind != nil {
			return c.persistCounts(ctx, b, ids)
		}
		keys, boxes := make([]K, len(ids)), make([]any, len(ids))
		for i, id := range ids {
			var err error
			if keys[i], err = c.template.Parse(id); err != nil {
				return err
			}
			if boxes[i], err = c.core.decode(id, b.Values[id]); err != nil {
				return err
			}
		}
		if c.core.settings.downMany {
			return c.downMany(ctx, keys, boxes, true)[0]
		}
		return withRefusedIDs(ids, c.downMany(ctx, keys[:1], boxes[:1], false)[0]) // one: see MaxBatch
	})
}

// observePersist calls persist for a batch, and tells the observer.
func (c *core) observePersist(ctx context.Context, b ledger.Batch, persist func(ctx context.Context, ids []string) error) (err error) {
	ids := b.IDs()
	ctx, obs := c.observe(ctx, OpPersist, ids[0], len(ids))
	defer func() { obs.end(ctx, 0, err) }()
	return persist(ledger.NewContext(ctx, b), ids)
}

// refusedAs returns err, of Down for these ids. If it says that they are refused, by
// whatever names Down knows them, the result names them as the ledger does.
func withRefusedIDs(ids []string, err error) error {
	if refused, beside := errs.Find[*ledger.RefusedError](err); len(refused) > 0 && !beside {
		return &ledger.RefusedError{IDs: ids, Err: err}
	}
	return err
}
