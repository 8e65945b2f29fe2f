package cachex

import (
	"context"

	"github.com/cachex-go/cachex/internal/engine"
)

// writing returns a value as one to be written under the key k.
func (c *keyed[K]) encodeWrite(key K, rkey string, box any) (engine.Writing, error) {
	life, err := c.lifetime(key, box)
	if err != nil {
		return engine.Writing{}, err
	}
	return c.core.engine.Writing(rkey, life, box)
}

// writingOf is writing of a value of SetMany.
func (c *keyed[K]) renderWrite(key K, box any) (engine.Writing, error) {
	rkey, err := c.render(key)
	if err != nil {
		return engine.Writing{}, c.core.fail(OpSetMany, "", err)
	}
	w, err := c.encodeWrite(key, rkey, box)
	if err != nil {
		return w, c.core.fail(OpSetMany, rkey, err)
	}
	return w, nil
}

// set is Cache.Set.
func (c *keyed[K]) set(ctx context.Context, key K, box any) error {
	rkey, bad := c.render(key)
	rkey, err := c.core.enter(ctx, OpSet, rkey, bad)
	if err != nil {
		return err
	}
	defer c.core.calls.exit()
	ctx, obs := c.core.observe(ctx, OpSet, rkey, 1)
	err = c.setOne(ctx, key, rkey, box)
	obs.end(ctx, 0, err)
	return err
}

func (c *keyed[K]) setOne(ctx context.Context, key K, rkey string, box any) error {
	writing, err := c.encodeWrite(key, rkey, box)
	switch {
	case err != nil:
		return c.core.fail(OpSet, rkey, err)
	case c.core.writeBehind == nil && !c.core.settings.down:
		return c.core.write(ctx, writing)
	}
	return c.writeValues(ctx, OpSet, []engine.Writing{writing}, []K{key}, []any{box}, false)
}

// entries are values to be set, each in a box of its own if keep is set, else
// in one that the next value replaces.
type boxSeq[K comparable] func(keep bool, yield func(key K, box any) bool)

// setMany is SetMany of n values.
func (c *keyed[K]) setMany(ctx context.Context, n int, all boxSeq[K]) error {
	if n > c.core.settings.maxKeys {
		return c.setInChunks(ctx, n, all)
	}
	s := c.newSetBatch(n)
	all(c.needsValues(), s.add)
	if s.err != nil {
		return s.err
	}
	if err := c.core.admit(ctx, OpSetMany); err != nil || len(s.writes) == 0 {
		if err == nil {
			c.core.calls.exit()
		}
		return err
	}
	defer c.core.calls.exit()
	ctx, obs := c.core.observe(ctx, OpSetMany, s.writes[0].Key, len(s.writes))
	err := s.flush(ctx)
	obs.end(ctx, 0, err)
	return err
}

// keeps reports whether values are of use when they are encoded.
func (c *keyed[K]) needsValues() bool { return c.kind != nil || c.core.settings.down }

// setChunks is setMany for more values than are in one call of DownMany. Chunks
// are set one after the other: two calls of DownMany at once might wait for
// each other in the system of record.
func (c *keyed[K]) setInChunks(ctx context.Context, n int, all boxSeq[K]) error {
	var bad error
	all(false, func(key K, box any) bool { // before anything is set
		_, bad = c.renderWrite(key, box)
		return bad == nil
	})
	if bad != nil {
		return bad
	}
	if err := c.core.admit(ctx, OpSetMany); err != nil {
		return err
	}
	defer c.core.calls.exit()
	var obs *observation
	begun := false
	s := c.newSetBatch(c.core.settings.maxKeys)
	flush := func() {
		if !begun {
			begun = true
			ctx, obs = c.core.observe(ctx, OpSetMany, s.writes[0].Key, n)
		}
		s.err = s.flush(ctx)
		clear(s.writes)
		s.reset(s.writes[:0])
	}
	all(c.needsValues(), func(key K, box any) bool {
		if s.add(key, box) && len(s.writes) == c.core.settings.maxKeys {
			flush()
		}
		return s.err == nil
	})
	if s.err == nil && len(s.writes) > 0 {
		flush()
	}
	if begun {
		obs.end(ctx, 0, s.err)
	}
	return s.err
}

// A setting is values that are set together.
type setBatch[K comparable] struct {
	c      *keyed[K]
	writes []engine.Writing
	keys   []K   // nil: the values are of no use any more
	boxes  []any // of keys
	err    error // of the last value
}

// setting returns a setting with room for n values.
func (c *keyed[K]) newSetBatch(n int) *setBatch[K] {
	s := &setBatch[K]{c: c}
	s.reset(make([]engine.Writing, 0, n))
	return s
}

// begin makes a setting empty. ws is room for what is to be written.
func (s *setBatch[K]) reset(ws []engine.Writing) {
	if s.writes = ws; s.c.needsValues() { // the keys before may still be looked at
		s.keys, s.boxes = make([]K, 0, cap(ws)), make([]any, 0, cap(ws))
	}
}

// add adds a value, and reports whether it can be encoded.
func (s *setBatch[K]) add(key K, box any) bool {
	var w engine.Writing
	if w, s.err = s.c.renderWrite(key, box); s.err != nil {
		return false
	}
	s.writes = append(s.writes, w)
	if s.c.needsValues() {
		s.keys, s.boxes = append(s.keys, key), append(s.boxes, box)
	}
	return true
}

// flush sets the values, and returns the first error.
func (s *setBatch[K]) flush(ctx context.Context) error {
	return s.c.writeValues(ctx, OpSetMany, s.writes, s.keys, s.boxes, s.c.core.settings.downMany)
}

// setSome sets the values of keys, and returns the first error. together says
// that DownMany is called for them.
func (c *keyed[K]) writeValues(ctx context.Context, op string, ws []engine.Writing, keys []K, boxes []any, together bool) error {
	rkeys := make([]string, len(ws))
	for i, w := range ws {
		rkeys[i] = w.Key
	}
	var errs []error
	switch {
	case c.core.writeBehind != nil && c.kind != nil:
		errs = c.setCounts(ctx, keys, boxes)
	case c.core.writeBehind != nil:
		errs = c.core.writeBehindMany(ctx, ws)
	case !c.core.settings.down:
		errs = c.core.writeMany(ctx, ws, rkeys)
	default:
		errs = c.core.engine.WriteThrough(ctx, ws, func(ctx context.Context) []error {
			return c.downMany(ctx, keys, boxes, together)
		})
	}
	return c.core.firstError(ctx, op, rkeys, errs)
}

// downMany calls Spec.DownMany if together is set, else Down for each key. It
// returns an error for each.
func (c *keyed[K]) downMany(ctx context.Context, keys []K, boxes []any, together bool) []error {
	var many func() error
	if together {
		many = func() error { return c.values.downMany(ctx, keys, boxes) }
	}
	return persistEach(len(keys), func(i int) error { return c.values.down(ctx, keys[i], boxes[i]) }, many)
}
