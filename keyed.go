package cachex

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/kind"
)

// keyed is a Cache without the type of its values, which it handles as boxes:
// see engine.Engine. A program compiles it once per type of keys. Code that
// needs neither K nor V is in core.
type keyed[K comparable] struct {
	core     core // not embedded: each type of keys would then compile a wrapper of each of its methods
	template *key.Template[K]
	packed   *key.Packed[K] // nil if every entry has its own key
	kind     *kind.Kind[K]  // nil for a plain Cache
	values   values[K]
	up       upBox[K]     // Spec.Up, or UpMany for one key; nil if nothing is loaded
	upMany   upManyBox[K] // Spec.UpMany
}

// values is the part of a Cache that knows the type of its values: see typed.
type values[K comparable] interface {
	boxCodec

	// up and upMany call Spec.Up and UpMany. upMany returns a box for each key,
	// or nil for a key without a value.
	up(ctx context.Context, key K) (any, error)
	upMany(ctx context.Context, keys []K) ([]any, error)

	// down and downMany call Spec.Down and DownMany.
	down(ctx context.Context, key K, box any) error
	downMany(ctx context.Context, keys []K, boxes []any) error

	// ttl calls Spec.TTLFor. A nil box means the zero value.
	ttl(key K, box any) time.Duration
}

type (
	upBox[K comparable]     func(ctx context.Context, key K) (any, error)
	upManyBox[K comparable] func(ctx context.Context, keys []K) ([]any, error)
)

// open returns the keyed part of a Cache.
func open[K comparable](rdb redis.UniversalClient, set *settings, template *key.Template[K], vs values[K], codec any, of reflect.Type) (*keyed[K], error) {
	c := &keyed[K]{template: template, values: vs}
	if err := c.open(rdb, set, codec, of); err != nil {
		c.core.release()
		return nil, fmt.Errorf("cachex: %w", err)
	}
	return c, nil
}

func (c *keyed[K]) open(rdb redis.UniversalClient, set *settings, codec any, of reflect.Type) (err error) {
	if err = c.core.open(rdb, set, c.template.Name(), of); err != nil {
		return err
	}
	if set.packed > 0 {
		if c.packed, err = c.template.Pack(set.packed, set.expected); err != nil {
			return fmt.Errorf("Spec.Packed %w", err)
		}
	}
	if err := c.core.openEngine(c.values); err != nil {
		return err
	}
	if carrier, ok := codec.(kind.Carrier[K]); ok {
		c.kind = carrier.Kind()
		c.core.zeroIfMissing = c.kind.Zero
		c.attachKind()
	}
	if set.up {
		c.up = c.values.up
	}
	if set.upMany {
		c.upMany = c.values.upMany
	}
	if set.writeBehind != 0 {
		if err := c.openWriteBehind(); err != nil {
			return err
		}
	}
	if c.up == nil && c.upMany != nil {
		c.up = c.upViaMany
	}
	c.core.hasUp = c.up != nil
	return nil
}

func (c *keyed[K]) render(key K) (string, error) {
	var buf [96]byte
	b, err := c.appendKey(buf[:0], key)
	return string(b), err
}

// appendKey appends the key in Redis to dst.
func (c *keyed[K]) appendKey(dst []byte, key K) ([]byte, error) {
	if c.packed != nil {
		return c.packed.Append(dst, key)
	}
	if c.core.writeBehind == nil {
		return c.template.Append(dst, key)
	}
	b, err := c.template.Append(nil, key)
	if err != nil {
		return dst, err
	}
	return append(append(dst, c.core.writeBehind.Tag(string(b))...), b...), nil
}

// typedKeys is the keySource of keys of type K.
type typedKeys[K comparable] struct {
	c    *keyed[K]
	keys []K
	any  bool // keys need not be hashable
}

func (l *typedKeys[K]) len() int { return len(l.keys) }

// append appends the i-th key in Redis to dst.
func (l *typedKeys[K]) append(dst []byte, i int) ([]byte, error) {
	b, err := l.c.appendKey(dst, l.keys[i])
	if err == nil && !l.any {
		err = l.c.template.Hashable(l.keys[i])
	}
	return b, err
}

// load loads values by UpMany, or one value by Up if there is no UpMany.
func (l *typedKeys[K]) load(ctx context.Context, is []int) []engine.LoadResult {
	if l.c.upMany == nil {
		v, life, err := l.c.loadOne(ctx, l.keys[is[0]], l.c.up)
		return []engine.LoadResult{{Value: v, Life: life, Err: err}}
	}
	some := make([]K, len(is))
	for j, i := range is {
		some[j] = l.keys[i]
	}
	return l.c.loadMany(ctx, some)
}

// target is the engine.Target of a Get.
type target[K comparable] struct {
	c   *keyed[K]
	key K
	up  upBox[K] // nil if nothing is loaded
	box any
}

// Box returns the box for a hit.
func (t *target[K]) Box() any { return t.box }

// Load calls up.
func (t *target[K]) Load(ctx context.Context) (any, engine.Life, error) {
	return t.c.loadOne(ctx, t.key, t.up)
}

// get implements Cache.Get and the functions returned by Wrap.
func (c *keyed[K]) get(ctx context.Context, t *target[K]) (any, error) {
	rkey, bad := c.render(t.key)
	return c.core.get(ctx, rkey, bad, t.up != nil, t)
}

// lookup implements Cache.Lookup. A hit decodes into box.
func (c *keyed[K]) lookup(ctx context.Context, key K, box any) (any, bool, error) {
	rkey, bad := c.render(key)
	return c.core.lookup(ctx, rkey, bad, box)
}

// refresh implements Cache.Refresh.
func (c *keyed[K]) refresh(ctx context.Context, key K) (any, error) {
	rkey, bad := c.render(key)
	return c.core.refresh(ctx, rkey, bad, (&target[K]{c: c, key: key, up: c.up}).Load)
}

// forChunks renders keys and calls do for them in chunks.
func (c *keyed[K]) forChunks(ctx context.Context, op string, keys []K, do func(context.Context, []string) (string, error)) error {
	return c.core.forChunks(ctx, op, len(keys), func(i int) (string, error) { return c.render(keys[i]) }, do)
}

// keyMatcher returns a SCAN pattern and a predicate for the keys of c.
func (c *keyed[K]) keyMatcher() (pattern string, match func(string) bool, err error) {
	if c.packed != nil {
		pattern, err = c.packed.Pattern()
		return pattern, c.packed.Match, err
	}
	pattern, err = c.template.Pattern()
	return c.core.tagMatcher(pattern, c.template.Match, err)
}
