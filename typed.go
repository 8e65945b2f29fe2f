package cachex

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/cachex-go/cachex/codec"
)

// typed unboxes the values of a Cache: see engine.Engine. It implements values.
// It is compiled again for every type of values, in the user's package. So code
// that does not need that type is in keyed and core.
type typed[K comparable, V any] struct {
	codec        codec.Codec[V]
	keyed        codec.Keyed[V] // codec, if it implements codec.Keyed
	upFunc       func(context.Context, K) (V, error)
	upManyFunc   func(context.Context, []K) (map[K]V, error)
	downFunc     func(context.Context, K, V) error
	downManyFunc func(context.Context, map[K]V) error
	ttlFunc      func(K, V) time.Duration
	boxPool      sync.Pool // of *V; the values are zero
	slabPool     sync.Pool // of *slabOf[V]; the values are zero
}

// unbox returns the value in a box, or the zero value if box is nil.
func unbox[V any](box any) (v V) {
	if box != nil {
		v = *box.(*V)
	}
	return v
}

// NewBox returns a pointer to a zero value.
func (t *typed[K, V]) NewBox() any { return new(V) }

// AppendBox encodes the value in box.
func (t *typed[K, V]) AppendBox(dst []byte, key string, box any) ([]byte, error) {
	if t.keyed != nil {
		return t.keyed.AppendKeyed(dst, key, *box.(*V))
	}
	return t.codec.Append(dst, *box.(*V))
}

// DecodeBox decodes src into box.
func (t *typed[K, V]) DecodeBox(src []byte, key string, box any) error {
	if t.keyed != nil {
		return t.keyed.DecodeKeyed(src, key, box.(*V))
	}
	return t.codec.Decode(src, box.(*V))
}

// Codec returns the codec.
func (t *typed[K, V]) Codec() any { return t.codec }

func (t *typed[K, V]) up(ctx context.Context, key K) (any, error) {
	v, err := t.upFunc(ctx, key)
	return &v, err
}

func (t *typed[K, V]) upMany(ctx context.Context, keys []K) ([]any, error) {
	values, err := t.upManyFunc(ctx, slices.Clone(keys)) // UpMany may sort its keys
	boxes, vs := make([]any, len(keys)), make([]V, len(keys))
	for i, key := range keys {
		if v, ok := values[key]; ok {
			vs[i] = v
			boxes[i] = &vs[i]
		}
	}
	return boxes, err
}

func (t *typed[K, V]) down(ctx context.Context, key K, box any) error {
	return t.downFunc(ctx, key, unbox[V](box))
}

func (t *typed[K, V]) downMany(ctx context.Context, keys []K, boxes []any) error {
	values := make(map[K]V, len(keys))
	for i, key := range keys {
		values[key] = unbox[V](boxes[i])
	}
	return t.downManyFunc(ctx, values)
}

func (t *typed[K, V]) ttl(key K, box any) time.Duration { return t.ttlFunc(key, unbox[V](box)) }

// getBox returns a box that holds v. The caller must return it by putBox.
func (t *typed[K, V]) getBox(v V) *V {
	box, ok := t.boxPool.Get().(*V)
	if !ok {
		box = new(V)
	}
	*box = v
	return box
}

func (t *typed[K, V]) putBox(box *V) {
	*box = *new(V) // or the pool would retain memory that v refers to
	t.boxPool.Put(box)
}

// slab returns boxes for n values.
func (t *typed[K, V]) slab(n int) slab {
	s, ok := t.slabPool.Get().(*slabOf[V])
	if !ok || cap(s.values) < n {
		s = &slabOf[V]{values: make([]V, n), pool: &t.slabPool}
	}
	s.values = s.values[:n]
	return s
}

// maxPooledSlab is the largest number of values in a pooled slab.
const maxPooledSlab = 1 << 10

// slabOf is a slab of values of type V.
type slabOf[V any] struct {
	values []V
	pool   *sync.Pool
}

// Box returns the i-th box.
func (s *slabOf[V]) Box(i int) any { return &s.values[i] }

func (s *slabOf[V]) free() {
	if cap(s.values) <= maxPooledSlab {
		clear(s.values)
		s.pool.Put(s)
	}
}

// getCall is one Get. It holds the value of a hit and the arguments of a load
// in one allocation.
type getCall[K comparable, V any] struct {
	target target[K]
	value  V
}

// get implements Get and the functions returned by Wrap.
func (c *Cache[K, V]) get(ctx context.Context, key K, up upBox[K]) (V, error) {
	call := &getCall[K, V]{target: target[K]{c: c.keyed, key: key, up: up}}
	call.target.box = &call.value
	box, err := c.keyed.get(ctx, &call.target)
	return unbox[V](box), err
}

// mapSink collects the result of a call for many keys.
type mapSink[K comparable, V any] struct {
	keys   []K
	values map[K]V
}

func (g *mapSink[K, V]) begin(n int) { g.values = make(map[K]V, n) }

func (g *mapSink[K, V]) put(i int, box any) { g.values[g.keys[i]] = unbox[V](box) }

// readMany implements GetMany and LookupMany.
func (c *Cache[K, V]) readMany(ctx context.Context, op string, keys []K) (map[K]V, error) {
	g := mapSink[K, V]{keys: keys}
	err := c.keyed.core.readMany(ctx, op, &typedKeys[K]{c: c.keyed, keys: keys}, &g)
	return g.values, err
}

// boxSeq returns the values of SetMany in boxes.
func (c *Cache[K, V]) boxSeq(values map[K]V) boxSeq[K] {
	return func(keep bool, yield func(K, any) bool) {
		size := 1
		if keep {
			size = min(len(values), 64)
		}
		room := make([]V, 0, size)
		for key, v := range values {
			switch {
			case !keep:
				room = room[:0]
			case len(room) == size:
				room = make([]V, 0, size) // the boxes yielded before stay valid
			}
			room = append(room, v)
			if !yield(key, &room[len(room)-1]) {
				return
			}
		}
	}
}
