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

// Flush persists all values written behind by any process before the call of
// Flush. Without Spec.WriteBehind it does nothing. The error is an *Error;
// unpersisted values stay pending and are tried again. A
// *writebehind.AsideError in its chain says how many values the database
// refused for good meanwhile, and how many this process cannot read.
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

// drain sends the data that a kind buffers in this process.
func (c *core) drain(ctx context.Context, closing bool) error {
	if c.drainKind == nil {
		return nil
	}
	return c.drainKind(ctx, closing)
}

// Reconcile flushes, and calls choose for each batch whose history has forked:
// see writebehind.Engine.Reconcile. Call it after a backup of Redis or of the
// database was restored, or after the ledger was lost. Call it also when a
// cache gets its first ledger. It returns the forks it found. If choose is nil,
// all of them are held. Without Spec.WriteBehind it does nothing. The error is
// an *Error; unpersisted values stay in Redis.
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

// namespace returns the name of the write-behind buckets of a template. It
// contains all literal text of the template, so that caches with different keys
// never share a bucket. It does not contain the names of placeholders, which
// may change. A placeholder becomes '*'. In literal text, '*', '%' and invalid
// bytes are escaped as in a URL.
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

// openWriteBehind creates the engine of Spec.WriteBehind.
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
		o.MaxBatch = 1 // Ledger.Once of a Down then records exactly its value
	}
	if c.writeBehind, err = writebehind.New(c.rdb, o); err != nil {
		return fmt.Errorf("Spec.WriteBehind: %w", err)
	}
	return nil
}

// writeBehindMany stores values and marks them as pending, in one round trip
// per 500 values. It returns an error for each.
func (c *core) writeBehindMany(ctx context.Context, ws []engine.Write) []error {
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
	c.engine.Exec(ctx, calls...)
	c.engine.Forget(rkeys...)
	errs := make([]error, len(ws))
	for i, call := range calls {
		errs[i] = writebehind.Written(call.Reply, call.Err)
	}
	return errs
}

// tagMatcher extends pattern and match by the hash tag of write-behind, if keys
// have one.
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

// withoutTag returns the key without the hash tag of write-behind.
func withoutTag(rkey string) string {
	_, id, _ := strings.Cut(rkey, "}")
	return id
}

// wrapUp returns the load of a function returned by Wrap.
func (c *keyed[K]) wrapUp(up upBox[K]) upBox[K] {
	if c.core.writeBehind != nil && c.kind == nil {
		return c.withPending(up)
	}
	return up
}

// withPending returns an Up for values written behind: a pending value is newer
// than the source. It reads pending values first. If none is pending, the
// source has every earlier one.
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

// withPendingMany is withPending for several keys.
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

// readPending returns the pending values of keys in boxes, or nil for a key
// without one. If Redis does not answer, or a value cannot be decoded, the
// result of the load goes to its callers and is not stored.
func (c *keyed[K]) readPending(ctx context.Context, keys []K) ([]any, error) {
	return c.core.readPending(ctx, len(keys), func(i int) string {
		rkey, _ := c.render(keys[i]) // cannot fail: the call has rendered it before
		return withoutTag(rkey)
	})
}

// readPending returns the pending values of n ids in boxes, or nil for an id
// without one.
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
			err = cmp.Or(err, fmt.Errorf("pending value: %w", bad)) // the other pending values are still used
			continue
		}
		boxes[i] = box
	}
	return boxes, err
}

// decode decodes a value written behind under an id.
func (c *core) decode(id string, payload []byte) (any, error) {
	box := c.values.NewBox()
	return box, c.engine.Decode(c.writeBehind.Tag(id)+id, payload, box)
}

// checkEntry returns an error if this release cannot read an id or its value,
// because the template, the codec or the key type differs. Another release then
// persists it.
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

// persist passes a batch that checkEntry accepts to Down.
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
		return withRefusedIDs(ids, c.downMany(ctx, keys[:1], boxes[:1], false)[0]) // one value: see MaxBatch
	})
}

// observePersist calls persist for a batch, under the Observer.
func (c *core) observePersist(ctx context.Context, b ledger.Batch, persist func(ctx context.Context, ids []string) error) (err error) {
	ids := b.IDs()
	ctx, obs := c.observe(ctx, OpPersist, ids[0], len(ids))
	defer func() { obs.end(ctx, 0, err) }()
	return persist(ledger.NewContext(ctx, b), ids)
}

// withRefusedIDs returns the error of Down for ids. If err refuses values,
// under whatever names Down knows them, the result names the ids of the ledger.
func withRefusedIDs(ids []string, err error) error {
	if refused, beside := errs.Find[*ledger.RefusedError](err); len(refused) > 0 && !beside {
		return &ledger.RefusedError{IDs: ids, Err: err}
	}
	return err
}
