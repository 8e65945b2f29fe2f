package cachex

import (
	"cmp"
	"context"
	"errors"
	"math"

	"github.com/cachex-go/cachex/internal/engine"
)

// eachLimit is how many calls of Up GetMany makes at once if Spec.MaxLoads does
// not say.
const eachLimit = 16

// GetMany returns the values of keys: from Redis, in one round trip, or else
// from UpMany, in one call, and what that returns is stored in one more round
// trip. Where most of the keys that were asked for lately were there, the
// leases on those that are missing cost another one between the two. A key that
// is not in the map has no value. A key that comes twice is asked for once.
//
// More keys than Spec.MaxKeys are read, loaded and stored in chunks of so many,
// four at a time, in any order. The call then needs little memory beside its
// result, and what one chunk has stored stays stored whatever becomes of the
// others.
//
// Each key is loaded once for the whole fleet, and is shared with calls of Get
// and GetMany that ask for it at the same time; keys that are being loaded
// elsewhere are waited for and not loaded. What is said of Get is true of each
// key by itself: of a Delete during the load, of stale values, of Redis
// failing.
//
// The error is an *Error with the first key, in the order of keys, that failed.
// The map is right all the same: it has every value that could be had.
func (c *Cache[K, V]) GetMany(ctx context.Context, keys []K) (map[K]V, error) {
	return c.many(ctx, OpGetMany, keys)
}

// LookupMany returns the values of keys that are in Redis, in one round trip
// for each 500. It never loads, and does not wait for a load. The error is as
// that of GetMany.
func (c *Cache[K, V]) LookupMany(ctx context.Context, keys []K) (map[K]V, error) {
	return c.many(ctx, OpLookupMany, keys)
}

// keys are the keys of a call, as code that is compiled once knows them: by
// their places.
type keys interface {
	len() int

	// append appends the i-th key in Redis. It returns an error if there is
	// none, or if the key cannot be the key of a map.
	append(dst []byte, i int) ([]byte, error)

	// load loads the values of some keys, or of one if there is no Spec.UpMany.
	load(ctx context.Context, is []int) []engine.Loaded
}

// A sink takes the values of a call for many keys.
type sink interface {
	// begin makes room for n values.
	begin(n int)

	// put puts the value of the i-th key there: that in box, or a zero value if
	// box is nil.
	put(i int, box any)
}

// place returns which of the keys of a call the i-th of some is: is[i], or i if
// is is nil.
func place(is []int, i int) int {
	if is == nil {
		return i
	}
	return is[i]
}

// eachLimit returns how many calls of Up a call makes at once; with UpMany,
// which has no such limit, as many as it likes.
func (c *core) eachLimit() int {
	if c.settings.upMany {
		return math.MaxInt
	}
	return cmp.Or(c.settings.maxLoads, eachLimit)
}

// plan returns the load of some of the keys of a call, nil if nothing loads, and
// how many at a time if it loads them one by one: its part where several share
// them.
func (c *core) plan(from keys, some []int, share int) (limit int, load engine.ManyFunc) {
	if !c.ups {
		return 0, nil
	}
	if !c.settings.upMany {
		limit = max(c.eachLimit()/share, 1)
	}
	return limit, func(ctx context.Context, is []int) []engine.Loaded {
		if some != nil {
			at := make([]int, len(is))
			for j, i := range is {
				at[j] = some[i]
			}
			is = at
		}
		return from.load(ctx, is)
	}
}

// A manyCall is one GetMany or LookupMany.
type manyCall struct {
	c     *core
	op    string
	keys  keys
	loads bool // what is not in Redis is loaded
	zero  bool // a key without a value has the zero value
	found
}

// many is Cache.GetMany, or LookupMany.
func (c *core) many(ctx context.Context, op string, from keys, into sink) error {
	m := manyCall{c: c, op: op, keys: from, found: found{into: into}}
	if op == OpGetMany {
		m.loads, m.zero = c.ups, !c.ups && c.absent() == nil
	}
	if from.len() > c.settings.maxKeys {
		return m.chunks(ctx)
	}
	ks, is, before, bad := c.renderAll(op, from, nil)
	if err := c.admit(ctx, op); err != nil {
		tell(ctx, 0)
		return err
	}
	defer c.calls.leave()
	m.at, m.failed = before, bad
	into.begin(len(ks))
	if len(ks) == 0 {
		return m.finish(ctx, nil)
	}
	ctx, w := c.begin(ctx, op, ks[0], len(ks))
	answers, boxes := m.ask(ctx, ks, is, 1)
	m.take(0, ks, is, answers)
	boxes.free()
	return m.finish(ctx, w)
}

// ask asks for some of the keys, at the same time as so many others share the
// calls of Up. The answers are in a slab.
func (m *manyCall) ask(ctx context.Context, ks []string, is []int, share int) ([]engine.Answer, slab) {
	c, boxes := m.c, m.c.values.slab(len(ks))
	if !m.loads {
		return c.engine.LookupMany(ctx, ks, boxes), boxes
	}
	limit, load := c.plan(m.keys, is, share)
	return c.engine.GetMany(ctx, ks, limit, load, boxes), boxes
}

// found is the result so far of a call for many keys.
type found struct {
	into   sink
	how    Outcome
	failed error // nil: no key has failed
	at     int   // which of the keys it is that failed
}

// fail notes the error of the key at a place, unless one before it has failed.
func (f *found) fail(at int, err error) {
	if err != nil && (f.failed == nil || at < f.at) {
		f.at, f.failed = at, err
	}
}

// take takes the answers for some keys, of which the first is the from-th that
// differs.
func (m *manyCall) take(from int, ks []string, is []int, answers []engine.Answer) {
	for i, a := range answers {
		switch {
		case a.Err == nil && (m.zero || a.Outcome != 0 && a.Outcome != engine.OutcomeNotFound):
			m.into.put(place(is, i), a.Value)
		case a.Err != nil && !errors.Is(a.Err, ErrNotFound):
			if m.failed == nil || from+i < m.at {
				m.fail(from+i, m.c.fail(m.op, ks[i], a.Err))
			}
			continue // it has no outcome
		}
		m.how = max(m.how, Outcome(a.Outcome))
	}
	m.c.engine.Reuse(answers)
}

// finish ends a call for many keys, which w has watched if it is not nil.
func (m *manyCall) finish(ctx context.Context, w *watch) error {
	if m.failed != nil {
		m.how = 0 // of the call as a whole: Outcome stands for what was returned without an error
	}
	tell(ctx, m.how)
	if w != nil {
		w.end(ctx, m.how, m.failed)
	}
	return m.failed
}
