package cachex

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/errs"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/loader"
	"github.com/cachex-go/cachex/writebehind"
)

// Flush persists what is written behind: what was set, by whatever process, before the
// call of Flush. It does nothing without Spec.WriteBehind. The error is an *Error; what
// is then not persisted is still pending, and is tried again. A *writebehind.AsideError
// in its chain tells how many values the database refused for good meanwhile, and how
// many this process cannot read.
func (c *Cache[K, V]) Flush(ctx context.Context) error { return c.core.flushAll(ctx) }

func (c *core) flushAll(ctx context.Context) error {
	if err := c.admit(ctx, "flush"); err != nil {
		return err
	}
	defer c.calls.leave()
	if err := c.flush(ctx); err != nil {
		return c.fail("flush", "", err)
	}
	return nil
}

func (c *core) flush(ctx context.Context) error {
	drained := c.drain(ctx, false)
	if c.engine == nil {
		return drained
	}
	return errors.Join(drained, c.engine.Flush(ctx))
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
	return c.core.reconcile(ctx, choose)
}

func (c *core) reconcile(ctx context.Context, choose func(writebehind.ForkError) writebehind.Choice) ([]writebehind.ForkError, error) {
	if err := c.admit(ctx, "reconcile"); err != nil {
		return nil, err
	}
	defer c.calls.leave()
	err := c.drain(ctx, false)
	if c.engine == nil {
		return nil, c.failing("reconcile", err)
	}
	forks, failed := c.engine.Reconcile(ctx, choose)
	return forks, c.failing("reconcile", errors.Join(err, failed))
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
func (c *Cache[K, V]) behind() error {
	if err := c.core.behind(c.persist, c.check); err != nil || c.kind != nil {
		if c.kind != nil {
			c.kind.Engine = c.core.engine
		}
		return err
	}
	if up := c.spec.Up; up != nil || c.spec.UpMany == nil {
		c.spec.Up = c.upPending(up)
	}
	if up := c.spec.UpMany; up != nil {
		c.spec.UpMany = c.upManyPending(up)
	}
	return nil
}

func (c *core) behind(persist func(context.Context, ledger.Batch) error, check func(id string, value []byte) error) (err error) {
	o := c.settings.writeBehindOptions
	o.Name, o.Merge, o.Every = namespace(c.settings.key), writebehind.Last, c.settings.writeBehind
	o.Persist, o.Check = persist, check
	switch {
	case c.settings.counts:
		o.Merge = writebehind.Sum
	case !c.settings.downMany:
		o.MaxBatch = 1 // Ledger.Once of Down then records just its value
	}
	if c.engine, err = writebehind.New(c.rdb, o); err != nil {
		return fmt.Errorf("Spec.WriteBehind: %w", err)
	}
	return nil
}

// setBehind writes values, and that they are to be persisted, in one round trip for
// each 500. It returns an error for each.
func (c *core) setBehind(ctx context.Context, ws []loader.Writing) []error {
	c.engine.Start()
	calls := make([]*script.Call, len(ws))
	ks := make([]string, len(ws))
	for i, w := range ws {
		id := untagged(w.Key)
		token, sum := entry.NewToken(), binary.BigEndian.AppendUint32(nil, entry.Sum(w.Key, w.Payload))
		keep, fresh := w.Life.Args()
		calls[i] = &script.Call{
			Script: script.WriteBehind, Key: w.Key, More: []string{c.engine.Keys(c.engine.Bucket(id)).Pending},
			Args: []any{token[:], keep, fresh, sum, w.Payload, writebehind.Field(id)},
		}
		ks[i] = w.Key
	}
	c.loads.Send(ctx, calls...)
	c.loads.Forget(ks...)
	errs := make([]error, len(ws))
	for i, call := range calls {
		errs[i] = writebehind.Written(call)
	}
	return errs
}

// whole returns the pattern and the test of the keys of c.
func (c *Cache[K, V]) whole() (pattern string, match func(string) bool, err error) {
	if c.packed != nil {
		pattern, err = c.packed.Pattern()
		return pattern, c.packed.Match, err
	}
	pattern, err = c.key.Pattern()
	return c.core.tagged(pattern, c.key.Match, err)
}

// tagged returns the pattern and the test of keys that have the hash tag of write-behind,
// if they have.
func (c *core) tagged(pattern string, match func(string) bool, err error) (string, func(string) bool, error) {
	if err != nil || c.engine == nil {
		return pattern, match, err
	}
	glob := strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `^`, `\^`, `-`, `\-`, `\`, `\\`)
	return "{" + glob.Replace(namespace(c.settings.key)) + ":*}" + pattern, func(k string) bool {
		id := untagged(k)
		return k == c.engine.Tag(id)+id && match(id)
	}, nil
}

// untagged returns the key without the hash tag of write-behind.
func untagged(k string) string {
	_, id, _ := strings.Cut(k, "}")
	return id
}

// upPending is Up where values are written behind: what is still pending is newer than
// what the source has. That is asked first, and if nothing is pending, the source has
// all that was.
func (c *Cache[K, V]) upPending(up func(context.Context, K) (V, error)) func(context.Context, K) (V, error) {
	return func(ctx context.Context, key K) (V, error) {
		values, err := c.pending(ctx, []K{key})
		if v, ok := values[key]; ok {
			return v, nil
		}
		if up == nil {
			var zero V
			return zero, cmp.Or(err, ErrNotFound)
		}
		return up(ctx, key)
	}
}

// upManyPending is upPending for several keys.
func (c *Cache[K, V]) upManyPending(up func(context.Context, []K) (map[K]V, error)) func(context.Context, []K) (map[K]V, error) {
	return func(ctx context.Context, keys []K) (map[K]V, error) {
		pending, _ := c.pending(ctx, keys)
		var others []K
		for _, key := range keys {
			if _, ok := pending[key]; !ok {
				others = append(others, key)
			}
		}
		if len(others) == 0 {
			return pending, nil
		}
		values, err := up(ctx, others)
		if len(pending) == 0 {
			return values, err
		}
		// UpMany may return more than it was asked for. Of a key that is pending, what
		// it says is older.
		for _, key := range others {
			if v, ok := values[key]; ok {
				pending[key] = v
			}
		}
		return pending, err
	}
}

// pending returns the values of keys that the source may lack. Where Redis does not
// tell, or one of them cannot be decoded, by this version of a program say, what is
// loaded is returned to whoever asked and not stored.
func (c *Cache[K, V]) pending(ctx context.Context, keys []K) (values map[K]V, err error) {
	err = c.core.pending(ctx, len(keys), func(i int) string {
		k, _ := c.render(keys[i]) // it was rendered before, for the call
		return untagged(k)
	}, func(i int, k string, payload []byte) error {
		var v V
		if err := c.decode(k, payload, &v); err != nil {
			return err
		}
		if values == nil {
			values = make(map[K]V)
		}
		values[keys[i]] = v
		return nil
	})
	return values, err
}

// pending looks for what the source may lack of n ids, and has decode take it: the
// payload of the i-th id, which would be an entry of the key k.
func (c *core) pending(ctx context.Context, n int, id func(i int) string, decode func(i int, k string, payload []byte) error) error {
	c.engine.Start()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = id(i)
	}
	seen, err := c.engine.LookMany(ctx, ids)
	if err != nil {
		NoStore(ctx)
		return err
	}
	for i, s := range seen {
		payload := cmp.Or(s.Pending, s.InFlight)
		if payload == nil {
			continue
		}
		if bad := decode(i, c.engine.Tag(ids[i])+ids[i], []byte(*payload)); bad != nil {
			NoStore(ctx)
			err = cmp.Or(err, fmt.Errorf("what is pending: %w", bad)) // of the others, the pending values hold all the same
		}
	}
	return err
}

func (c *Cache[K, V]) decode(k string, payload []byte, v *V) error {
	return c.loader.Decode(k, payload, v)
}

// check returns an error if this release cannot read an id, or its value: those of a
// template, a codec, or a key that is not its own. Another one persists them.
func (c *Cache[K, V]) check(id string, value []byte) error {
	if _, err := c.key.Parse(id); err != nil {
		return err
	}
	if c.kind != nil {
		return c.kind.Check(value)
	}
	var v V
	return c.decode(c.core.engine.Tag(id)+id, value, &v)
}

// persist has Down persist a batch of what check can read.
func (c *Cache[K, V]) persist(ctx context.Context, b ledger.Batch) error {
	if c.kind != nil {
		return c.core.observePersist(ctx, b, func(ctx context.Context, ids []string) error {
			return persistKind(ctx, c.kind, c.key, b, ids)
		})
	}
	return c.core.observePersist(ctx, b, func(ctx context.Context, ids []string) error {
		keys, values := make([]K, 0, len(ids)), make(map[K]V, len(ids))
		for _, id := range ids {
			key, err := c.key.Parse(id)
			if err != nil {
				return err
			}
			var v V
			if err := c.decode(c.core.engine.Tag(id)+id, b.Values[id], &v); err != nil {
				return err
			}
			keys, values[key] = append(keys, key), v
		}
		if c.spec.DownMany != nil {
			return c.downMany(ctx, keys, values)[0]
		}
		return refusedAs(ids, c.down(ctx, keys[0], values[keys[0]])) // one: see MaxBatch
	})
}

// observePersist calls persist for a batch, and tells the observer.
func (c *core) observePersist(ctx context.Context, b ledger.Batch, persist func(ctx context.Context, ids []string) error) (err error) {
	ids := b.IDs()
	ctx, w := c.begin(ctx, OpPersist, ids[0], len(ids))
	defer func() { w.end(ctx, 0, err) }()
	return persist(ledger.NewContext(ctx, b), ids)
}

// refusedAs returns err, of Down for these ids. If it says that they are refused, by
// whatever names Down knows them, the result names them as the ledger does.
func refusedAs(ids []string, err error) error {
	if refused, beside := errs.Find[*ledger.RefusedError](err); len(refused) > 0 && !beside {
		return &ledger.RefusedError{IDs: ids, Err: err}
	}
	return err
}
