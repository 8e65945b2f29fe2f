package cachex

import (
	"context"

	"github.com/cachex-go/cachex/internal/engine"
)

// encodeWrite returns the write of a value under a key in Redis.
func (c *keyed[K]) encodeWrite(key K, rkey string, box any) (engine.Write, error) {
	life, err := c.lifetime(key, box)
	if err != nil {
		return engine.Write{}, err
	}
	return c.core.engine.NewWrite(rkey, life, box)
}

// renderWrite renders key and returns the write of its value, for SetMany.
func (c *keyed[K]) renderWrite(key K, box any) (engine.Write, error) {
	rkey, err := c.render(key)
	if err != nil {
		return engine.Write{}, c.core.fail(OpSetMany, "", err)
	}
	w, err := c.encodeWrite(key, rkey, box)
	if err != nil {
		return w, c.core.fail(OpSetMany, rkey, err)
	}
	return w, nil
}

// set implements Cache.Set.
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
	return c.writeValues(ctx, OpSet, []engine.Write{writing}, []K{key}, []any{box}, false)
}

// boxSeq yields the values to set. If keep is true, each value has its own box;
// otherwise the next value replaces the box.
type boxSeq[K comparable] func(keep bool, yield func(key K, box any) bool)

// setMany implements Cache.SetMany for n values.
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

// needsValues reports whether the values are needed after they are encoded.
func (c *keyed[K]) needsValues() bool { return c.kind != nil || c.core.settings.down }

// setInChunks implements SetMany for more than Spec.MaxKeys values. It sets one
// chunk after the other, because concurrent calls of DownMany could block each
// other in the system of record.
func (c *keyed[K]) setInChunks(ctx context.Context, n int, all boxSeq[K]) error {
	var bad error
	all(false, func(key K, box any) bool { // checks every value before anything is set
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

// setBatch is a set of values that are written together.
type setBatch[K comparable] struct {
	c      *keyed[K]
	writes []engine.Write
	keys   []K   // nil if the values are not needed after encoding
	boxes  []any // parallel to keys
	err    error // of the value added last, or of the last flush
}

// newSetBatch returns an empty setBatch with room for n values.
func (c *keyed[K]) newSetBatch(n int) *setBatch[K] {
	s := &setBatch[K]{c: c}
	s.reset(make([]engine.Write, 0, n))
	return s
}

// reset empties s. It reuses ws for the writes.
func (s *setBatch[K]) reset(ws []engine.Write) {
	if s.writes = ws; s.c.needsValues() { // not reused: Down may have kept the slices
		s.keys, s.boxes = make([]K, 0, cap(ws)), make([]any, 0, cap(ws))
	}
}

// add adds a value, and reports whether it could be encoded.
func (s *setBatch[K]) add(key K, box any) bool {
	var w engine.Write
	if w, s.err = s.c.renderWrite(key, box); s.err != nil {
		return false
	}
	s.writes = append(s.writes, w)
	if s.c.needsValues() {
		s.keys, s.boxes = append(s.keys, key), append(s.boxes, box)
	}
	return true
}

// flush writes the values and returns the first error.
func (s *setBatch[K]) flush(ctx context.Context) error {
	return s.c.writeValues(ctx, OpSetMany, s.writes, s.keys, s.boxes, s.c.core.settings.downMany)
}

// writeValues writes the values of keys and returns the first error. If
// together is true, Down is called by DownMany for all of them.
func (c *keyed[K]) writeValues(ctx context.Context, op string, ws []engine.Write, keys []K, boxes []any, together bool) error {
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

// downMany calls Spec.DownMany if together is true, or Down for each key. It
// returns an error for each.
func (c *keyed[K]) downMany(ctx context.Context, keys []K, boxes []any, together bool) []error {
	var many func() error
	if together {
		many = func() error { return c.values.downMany(ctx, keys, boxes) }
	}
	return persistEach(len(keys), func(i int) error { return c.values.down(ctx, keys[i], boxes[i]) }, many)
}
