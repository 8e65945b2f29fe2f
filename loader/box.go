package loader

import (
	"context"
	"slices"

	"github.com/cachex-go/cachex/codec"
)

// A box is a pointer to a value, in an any. An Engine passes boxes on, and
// neither reads nor writes their values. So the Engine is compiled once for all
// types that a program caches. Only a BoxCodec, Loader and Flights know the type
// of a value.

// A BoxCodec is a codec of boxes. It is safe for concurrent use.
type BoxCodec interface {
	// NewBox returns a pointer to a zero value.
	NewBox() any

	// AppendBox is codec.Keyed.AppendKeyed of the value in box.
	AppendBox(dst []byte, key string, box any) ([]byte, error)

	// DecodeBox is codec.Keyed.DecodeKeyed into box.
	DecodeBox(src []byte, key string, box any) error

	// Codec returns the codec of the values. If it authenticates, see
	// codec.Keyed, so does the Engine.
	Codec() any
}

// boxed is a BoxCodec of values of type V.
type boxed[V any] struct{ codec codec.Keyed[V] }

func (boxed[V]) NewBox() any { return new(V) }

func (b boxed[V]) AppendBox(dst []byte, key string, box any) ([]byte, error) {
	return b.codec.AppendKeyed(dst, key, *box.(*V))
}

func (b boxed[V]) DecodeBox(src []byte, key string, box any) error {
	return b.codec.DecodeKeyed(src, key, box.(*V))
}

func (b boxed[V]) Codec() any { return b.codec }

// unbox returns the value in a box, or the zero value if box is nil.
func unbox[V any](box any) (value V) {
	if p, ok := box.(*V); ok {
		value = *p
	}
	return value
}

// A BoxFunc is a Func whose value is in a box.
type BoxFunc func(ctx context.Context) (any, Life, error)

// A BoxManyFunc is a ManyFunc whose values are in boxes.
type BoxManyFunc func(ctx context.Context, keys []int) []BoxLoaded

// A BoxLoaded is a Loaded whose value is in a box, nil if there is none.
type BoxLoaded struct {
	Value any
	Life  Life
	Err   error
}

// A BoxAnswer is an Answer whose value is in a box, nil if there is none.
type BoxAnswer struct {
	Value   any
	Outcome Outcome
	Err     error
}

// A BoxTarget receives the value of a hit, and loads on a miss. See
// Engine.GetOrLoad.
type BoxTarget interface {
	// Box returns a pointer to a zero value, which a hit sets. The Engine calls
	// it at most once.
	Box() any

	// Load is a BoxFunc.
	Load(ctx context.Context) (any, Life, error)
}

// A BoxTargets receives the values of several keys.
type BoxTargets interface {
	// Box returns a pointer to a value, which may be zero, for the i-th key.
	Box(i int) any
}

func boxOne[V any](load Func[V]) BoxFunc {
	return func(ctx context.Context) (any, Life, error) {
		v, life, err := load(ctx)
		return &v, life, err
	}
}

// boxMany returns nil if load is nil.
func boxMany[V any](load ManyFunc[V]) BoxManyFunc {
	if load == nil {
		return nil
	}
	return func(ctx context.Context, keys []int) []BoxLoaded {
		typed := slices.Clone(load(ctx, keys)) // the values are pointed to from now on
		all := make([]BoxLoaded, len(typed))
		for i := range typed {
			one := &typed[i]
			all[i] = BoxLoaded{Value: &one.Value, Life: one.Life, Err: one.Err}
		}
		return all
	}
}
