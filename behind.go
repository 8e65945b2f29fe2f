package cachex

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/errs"
	"github.com/cachex-go/cachex/internal/kind"
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
func (c *Cache[K, V]) Flush(ctx context.Context) error {
	if err := c.admit(ctx, "flush"); err != nil {
		return err
	}
	defer c.calls.leave()
	if err := c.flush(ctx); err != nil {
		return c.fail("flush", "", err)
	}
	return nil
}

func (c *Cache[K, V]) flush(ctx context.Context) error {
	drained := c.drain(ctx, false)
	if c.engine == nil {
		return drained
	}
	return errors.Join(drained, c.engine.Flush(ctx))
}

// drain sends what a kind keeps in this process.
func (c *Cache[K, V]) drain(ctx context.Context, closing bool) error {
	if c.kind == nil || c.kind.Drain == nil {
		return nil
	}
	return c.kind.Drain(ctx, closing)
}

// Reconcile flushes what is written behind, and asks choose what becomes of each batch
// whose history has forked, as writebehind.Engine.Reconcile does: after a backup of Redis
// or of the database was restored, after the ledger was lost, or where one is given to a
// cache that had none. It returns the forks that it has found; choose nil holds all of
// them. It does nothing without Spec.WriteBehind. The error is an *Error; what is then
// not persisted is still in Redis.
func (c *Cache[K, V]) Reconcile(ctx context.Context, choose func(writebehind.ForkError) writebehind.Choice) ([]writebehind.ForkError, error) {
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

// failing is fail of an error that may be nil, of a call without a key.
func (c *Cache[K, V]) failing(op string, err error) error {
	if err == nil {
		return nil
	}
	return c.fail(op, "", err)
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
func (c *Cache[K, V]) behind() (err error) {
	o := c.spec.WriteBehindOptions
	o.Name, o.Merge, o.Every = namespace(c.spec.Key), c.merge(), c.spec.WriteBehind
	o.Persist, o.Check = c.persist, c.check
	if c.kind == nil && c.spec.DownMany == nil {
		o.MaxBatch = 1 // Ledger.Once of Down then records just its value
	}
	c.engine, err = writebehind.New(c.rdb, o)
	if err != nil {
		return fmt.Errorf("Spec.WriteBehind: %w", err)
	}
	if c.kind != nil {
		c.kind.Engine = c.engine
		return nil
	}
	if up := c.spec.Up; up != nil || c.spec.UpMany == nil {
		c.spec.Up = c.upPending(up)
	}
	if up := c.spec.UpMany; up != nil {
		c.spec.UpMany = c.upManyPending(up)
	}
	return nil
}

func (c *Cache[K, V]) merge() writebehind.Merge {
	if c.kind != nil {
		return writebehind.Sum
	}
	return writebehind.Last
}

// setBehind writes values, and that they are to be persisted, in one round trip for
// each 500. It returns an error for each.
func (c *Cache[K, V]) setBehind(ctx context.Context, ws []loader.Writing) []error {
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
	c.loader.Send(ctx, calls...)
	c.loader.Forget(ks...)
	errs := make([]error, len(ws))
	for i, call := range calls {
		errs[i] = writebehind.Written(call)
	}
	return errs
}

// setBehindBy is setBehind of a kind.
func (c *Cache[K, V]) setBehindBy(ctx context.Context, keys []K, values []V) []error {
	counts := make([]int64, len(values))
	for i, v := range values {
		counts[i], _ = any(v).(int64)
	}
	errs := c.kind.SetMany(ctx, keys, counts)
	for _, key := range keys {
		if k, err := c.render(key); err == nil {
			c.loader.Forget(k)
		}
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
	if err != nil || c.engine == nil {
		return pattern, c.key.Match, err
	}
	glob := strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `^`, `\^`, `-`, `\-`, `\`, `\\`)
	return "{" + glob.Replace(namespace(c.spec.Key)) + ":*}" + pattern, func(k string) bool {
		id := untagged(k)
		return k == c.engine.Tag(id)+id && c.key.Match(id)
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
func (c *Cache[K, V]) pending(ctx context.Context, keys []K) (map[K]V, error) {
	c.engine.Start()
	ids := make([]string, len(keys))
	for i, key := range keys {
		k, _ := c.render(key) // it was rendered before, for the call
		ids[i] = untagged(k)
	}
	seen, err := c.engine.LookMany(ctx, ids)
	if err != nil {
		NoStore(ctx)
		return nil, err
	}
	values := make(map[K]V)
	for i, s := range seen {
		payload := cmp.Or(s.Pending, s.InFlight)
		if payload == nil {
			continue
		}
		var v V
		if bad := c.decode(c.engine.Tag(ids[i])+ids[i], []byte(*payload), &v); bad != nil {
			NoStore(ctx)
			err = cmp.Or(err, fmt.Errorf("what is pending: %w", bad))
			continue // of the others, the pending values hold all the same
		}
		values[keys[i]] = v
	}
	return values, err
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
	return c.decode(c.engine.Tag(id)+id, value, &v)
}

// persist has Down, or the kind, persist a batch of what check can read.
func (c *Cache[K, V]) persist(ctx context.Context, b ledger.Batch) (err error) {
	ids := b.IDs()
	ctx, w := c.begin(ctx, OpPersist, ids[0], len(ids))
	defer func() { w.end(ctx, 0, err) }()
	ctx = ledger.NewContext(ctx, b)
	deltas, totals := make(map[K]int64, len(b.Deltas)), make(map[K]int64)
	values := make(map[K]V, len(b.Values))
	for _, id := range ids {
		key, err := c.key.Parse(id)
		if err != nil {
			return err
		}
		if c.kind != nil {
			if total, ok := b.Values[id]; ok {
				totals[key], _ = strconv.ParseInt(string(total), 10, 64) // the engine has parsed it
			} else {
				deltas[key] = b.Deltas[id]
			}
			continue
		}
		var v V
		if err := c.decode(c.engine.Tag(id)+id, b.Values[id], &v); err != nil {
			return err
		}
		values[key] = v
	}
	if c.kind != nil {
		return c.kind.Persist(ctx, b, deltas, totals)
	}
	if c.spec.DownMany != nil {
		return c.downMany(ctx, slices.Collect(maps.Keys(values)), values)[0]
	}
	for key, v := range values { // one: see MaxBatch
		err = c.down(ctx, key, v)
		if refused, beside := errs.Find[*ledger.RefusedError](err); len(refused) > 0 && !beside {
			return &ledger.RefusedError{IDs: ids, Err: err} // by whatever name Down knows it
		}
	}
	return err
}

// carry gives the kind that a codec carries what it needs of c.
func (c *Cache[K, V]) carry(k *kind.Kind[K]) {
	c.kind = k
	k.Fail = c.fail
	k.Send = func(ctx context.Context, calls ...*script.Call) { c.loader.Send(ctx, calls...) }
	k.Spawn = c.loader.Spawn
	k.Enter = func(ctx context.Context, op string, key K) (*kind.Call, error) {
		k, err := c.enter(ctx, op, key)
		if err != nil {
			return nil, err
		}
		call := &kind.Call{Key: k, ID: k}
		if c.engine != nil {
			call.ID = untagged(k)
		}
		call.End = func(error) error { c.calls.leave(); return nil } // should the Observer panic
		ctx, w := c.begin(ctx, op, k, 1)
		call.Ctx = ctx
		call.End = func(err error) error {
			defer c.calls.leave()
			if err != nil {
				err = c.fail(op, k, err)
			}
			w.end(ctx, 0, err)
			return err
		}
		return call, nil
	}
}

// validateBehind is validate of Spec.WriteBehind.
func (s Spec[K, V]) validateBehind(parses func() error, counts bool) error {
	o := s.WriteBehindOptions
	switch {
	case s.WriteBehind == 0 && !reflect.ValueOf(o).IsZero():
		return errors.New("Spec.WriteBehindOptions needs Spec.WriteBehind")
	case s.WriteBehind == 0:
		return nil
	case o.Name != "" || o.Merge != 0 || o.Every != 0 || o.Persist != nil || o.Check != nil:
		return errors.New("Spec.WriteBehindOptions: Name, Merge, Every, Persist and Check must not be set: the cache has its own")
	case o.MaxBatch > 1 && s.DownMany == nil && !counts:
		return errors.New("Spec.WriteBehindOptions.MaxBatch needs Spec.DownMany: Down is given one value")
	case s.WriteBehind < minBehind || s.WriteBehind%time.Millisecond != 0:
		return fmt.Errorf("Spec.WriteBehind is %v, must be whole milliseconds, at least %v", s.WriteBehind, minBehind)
	case s.KeyFunc != nil:
		return errors.New("Spec.WriteBehind needs Spec.Key in place of Spec.KeyFunc: the flusher must parse the key")
	case strings.Contains(s.Key, "{{"):
		return errors.New("Spec.WriteBehind gives keys a hash tag of its own: write Spec.Key without {{…}}")
	case s.Down == nil && s.DownMany == nil && !counts:
		return errors.New("Spec.WriteBehind needs Spec.Down or Spec.DownMany, which persists")
	}
	if err := parses(); err != nil {
		return fmt.Errorf("Spec.WriteBehind: %w", err)
	}
	return nil
}

const minBehind = 10 * time.Millisecond
