package cachex

import (
	"cmp"
	"context"
	"errors"
	"math"

	"github.com/cachex-go/cachex/internal/engine"
)

// defaultUpCalls is the number of concurrent calls of Up in GetMany if
// Spec.MaxLoads is 0.
const defaultUpCalls = 16

// GetMany returns the values of keys. It reads them from Redis in one round
// trip, loads missing ones by one call of UpMany, and stores those in one more
// round trip. If most of the recently requested keys were present, the leases
// on missing keys take another round trip in between. A key without a value is
// absent from the map. Duplicate keys are read once.
//
// More keys than Spec.MaxKeys are read, loaded and stored in chunks, four at a
// time, in any order. The call then needs little memory beyond its result.
// Values stored by one chunk stay stored, even if another chunk fails.
//
// Each key is loaded once for the whole fleet. The load is shared with
// concurrent calls of Get and GetMany. Keys that are being loaded elsewhere are
// waited for and not loaded. Each key follows the rules of Get, independently
// of the others: for a Delete during the load, for stale values, and for
// failures of Redis.
//
// The error is an *Error with the first key, in the order of keys, that failed.
// The map is valid even then: it has every value that could be read or loaded.
func (c *Cache[K, V]) GetMany(ctx context.Context, keys []K) (map[K]V, error) {
	return c.readMany(ctx, OpGetMany, keys)
}

// LookupMany returns the values of keys that are in Redis, in one round trip
// per 500 keys. It never loads and does not wait for a load. Errors are as in
// [Cache.GetMany].
func (c *Cache[K, V]) LookupMany(ctx context.Context, keys []K) (map[K]V, error) {
	return c.readMany(ctx, OpLookupMany, keys)
}

// keySource is the keys of a call, addressed by index, for code that is
// compiled once.
type keySource interface {
	len() int

	// append appends the i-th key in Redis to dst. It returns an error if the
	// key cannot be rendered, or cannot be the key of a map.
	append(dst []byte, i int) ([]byte, error)

	// load loads the values of the keys at indexes is, or of one key if there
	// is no Spec.UpMany.
	load(ctx context.Context, is []int) []engine.LoadResult
}

// sink receives the values of a call for many keys.
type sink interface {
	// begin makes room for n values.
	begin(n int)

	// put stores the value of the i-th key: the value in box, or the zero value
	// if box is nil.
	put(i int, box any)
}

// indexAt returns is[i], or i if is is nil. A nil slice stands for all keys in
// their order.
func indexAt(is []int, i int) int {
	if is == nil {
		return i
	}
	return is[i]
}

// maxUpCalls returns how many calls of Up a call may make at the same time.
// UpMany has no such limit.
func (c *core) maxUpCalls() int {
	if c.settings.upMany {
		return math.MaxInt
	}
	return cmp.Or(c.settings.maxLoads, defaultUpCalls)
}

// loadPlan returns the load of some keys of a call, or nil if nothing loads. If
// keys are loaded one by one, limit is the number of concurrent calls of Up:
// the part of one of share chunks.
func (c *core) loadPlan(from keySource, some []int, share int) (limit int, load engine.ManyFunc) {
	if !c.hasUp {
		return 0, nil
	}
	if !c.settings.upMany {
		limit = max(c.maxUpCalls()/share, 1)
	}
	return limit, func(ctx context.Context, is []int) []engine.LoadResult {
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

// manyRead is one GetMany or LookupMany.
type manyRead struct {
	c             *core
	op            string
	keys          keySource
	loading       bool // keys missing in Redis are loaded
	zeroIfMissing bool // a missing key has the zero value
	manyResult
}

// readMany implements Cache.GetMany and LookupMany.
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

// read reads some of the keys, while share chunks share the calls of Up. The
// values of the answers are in the slab.
func (m *manyRead) read(ctx context.Context, rkeys []string, is []int, share int) ([]engine.KeyResult, slab) {
	c, boxes := m.c, m.c.values.slab(len(rkeys))
	if !m.loading {
		return c.engine.LookupMany(ctx, rkeys, boxes), boxes
	}
	limit, load := c.loadPlan(m.keys, is, share)
	return c.engine.GetMany(ctx, rkeys, limit, load, boxes), boxes
}

// manyResult is the intermediate result of a call for many keys.
type manyResult struct {
	into    sink
	outcome Outcome
	err     error // nil if no key has failed
	errAt   int   // index of the failed key among the distinct keys
}

// recordError records the error of the key at an index, unless an earlier key
// has failed.
func (f *manyResult) recordError(at int, err error) {
	if err != nil && (f.err == nil || at < f.errAt) {
		f.errAt, f.err = at, err
	}
}

// collect stores the answers for keys, the first of which is the from-th
// distinct key.
func (m *manyRead) collect(from int, rkeys []string, is []int, answers []engine.KeyResult) {
	for i, a := range answers {
		switch {
		case a.Err == nil && (m.zeroIfMissing || a.Outcome != 0 && a.Outcome != engine.OutcomeNotFound):
			m.into.put(indexAt(is, i), a.Value)
		case a.Err != nil && !errors.Is(a.Err, ErrNotFound):
			if m.err == nil || from+i < m.errAt {
				m.recordError(from+i, m.c.fail(m.op, rkeys[i], a.Err))
			}
			continue // a failed key has no outcome
		}
		m.outcome = max(m.outcome, Outcome(a.Outcome))
	}
	m.c.engine.Recycle(answers)
}

// finish ends a call for many keys. obs may be nil.
func (m *manyRead) finish(ctx context.Context, obs *observation) error {
	if m.err != nil {
		m.outcome = 0 // Outcome describes results without an error
	}
	setOutcome(ctx, m.outcome)
	if obs != nil {
		obs.end(ctx, m.outcome, m.err)
	}
	return m.err
}
