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
const defaultUpCalls = 16

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
	return c.readMany(ctx, OpGetMany, keys)
}

// LookupMany returns the values of keys that are in Redis, in one round trip
// for each 500. It never loads, and does not wait for a load. The error is as
// that of GetMany.
func (c *Cache[K, V]) LookupMany(ctx context.Context, keys []K) (map[K]V, error) {
	return c.readMany(ctx, OpLookupMany, keys)
}

// keys are the keys of a call, as code that is compiled once knows them: by
// their places.
type keySource interface {
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
func indexAt(is []int, i int) int {
	if is == nil {
		return i
	}
	return is[i]
}

// eachLimit returns how many calls of Up a call makes at once; with UpMany,
// which has no such limit, as many as it likes.
func (c *core) maxUpCalls() int {
	if c.settings.upMany {
		return math.MaxInt
	}
	return cmp.Or(c.settings.maxLoads, defaultUpCalls)
}

// plan returns the load of some of the keys of a call, nil if nothing loads, and
// how many at a time if it loads them one by one: its part where several share
// them.
func (c *core) loadPlan(from keySource, some []int, share int) (limit int, load engine.ManyFunc) {
	if !c.hasUp {
		return 0, nil
	}
	if !c.settings.upMany {
		limit = max(c.maxUpCalls()/share, 1)
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
type manyRead struct {
	c             *core
	op            string
	keys          keySource
	loading       bool // what is not in Redis is loaded
	zeroIfMissing bool // a key without a value has the zero value
	manyResult
}

// many is Cache.GetMany, or LookupMany.
func (c *core) readMany(ctx context.Context, op string, from keySource, into sink) error {
	m := manyRead{c: c, op: op, keys: from, manyResult: manyResult{into: into}}
	if op == OpGetMany {
		m.loading, m.zeroIfMissing = c.hasUp, !c.hasUp && c.errMissing() == nil
	}
	if from.len() > c.settings.maxKeys {
		return m.readChunks(ctx)
	}
	rkeys, is, before, bad := c.renderDistinct(op, from, nil)
	if err := c.admit(ctx, op); err != nil {
		setOutcome(ctx, 0)
		return err
	}
	defer c.calls.exit()
	m.errAt, m.err = before, bad
	into.begin(len(rkeys))
	if len(rkeys) == 0 {
		return m.finish(ctx, nil)
	}
	ctx, obs := c.observe(ctx, op, rkeys[0], len(rkeys))
	answers, boxes := m.read(ctx, rkeys, is, 1)
	m.collect(0, rkeys, is, answers)
	boxes.free()
	return m.finish(ctx, obs)
}

// ask asks for some of the keys, at the same time as so many others share the
// calls of Up. The answers are in a slab.
func (m *manyRead) read(ctx context.Context, rkeys []string, is []int, share int) ([]engine.Answer, slab) {
	c, boxes := m.c, m.c.values.slab(len(rkeys))
	if !m.loading {
		return c.engine.LookupMany(ctx, rkeys, boxes), boxes
	}
	limit, load := c.loadPlan(m.keys, is, share)
	return c.engine.GetMany(ctx, rkeys, limit, load, boxes), boxes
}

// found is the result so far of a call for many keys.
type manyResult struct {
	into    sink
	outcome Outcome
	err     error // nil: no key has failed
	errAt   int   // which of the keys it is that failed
}

// fail notes the error of the key at a place, unless one before it has failed.
func (f *manyResult) recordError(at int, err error) {
	if err != nil && (f.err == nil || at < f.errAt) {
		f.errAt, f.err = at, err
	}
}

// take takes the answers for some keys, of which the first is the from-th that
// differs.
func (m *manyRead) collect(from int, rkeys []string, is []int, answers []engine.Answer) {
	for i, a := range answers {
		switch {
		case a.Err == nil && (m.zeroIfMissing || a.Outcome != 0 && a.Outcome != engine.OutcomeNotFound):
			m.into.put(indexAt(is, i), a.Value)
		case a.Err != nil && !errors.Is(a.Err, ErrNotFound):
			if m.err == nil || from+i < m.errAt {
				m.recordError(from+i, m.c.fail(m.op, rkeys[i], a.Err))
			}
			continue // it has no outcome
		}
		m.outcome = max(m.outcome, Outcome(a.Outcome))
	}
	m.c.engine.Reuse(answers)
}

// finish ends a call for many keys, which w has watched if it is not nil.
func (m *manyRead) finish(ctx context.Context, obs *observation) error {
	if m.err != nil {
		m.outcome = 0 // of the call as a whole: Outcome stands for what was returned without an error
	}
	setOutcome(ctx, m.outcome)
	if obs != nil {
		obs.end(ctx, m.outcome, m.err)
	}
	return m.err
}
