package loader

import (
	"context"
	"slices"

	"github.com/cachex-go/cachex/codec"
)

// The engine is compiled once, whatever types a program caches. It passes a value on as a
// pointer in an any, and neither reads nor writes it. Only this file and the typed front
// in loader.go, many.go, and flights.go know the type of a value.

// A valueCodec is a codec whose values are pointers in an any.
type valueCodec interface {
	// new returns a pointer to a zero value.
	new() any

	// append is codec.Keyed.AppendKeyed of *v.
	append(dst []byte, key string, v any) ([]byte, error)

	// decode is codec.Keyed.DecodeKeyed into *v.
	decode(src []byte, key string, v any) error
}

// boxed is a valueCodec of values of type V.
type boxed[V any] struct{ codec.Keyed[V] }

func (boxed[V]) new() any { return new(V) }

func (b boxed[V]) append(dst []byte, key string, v any) ([]byte, error) {
	return b.AppendKeyed(dst, key, *v.(*V))
}

func (b boxed[V]) decode(src []byte, key string, v any) error {
	return b.DecodeKeyed(src, key, v.(*V))
}

// unbox returns the value that v points to, or the zero value if v is nil.
func unbox[V any](v any) (value V) {
	if p, ok := v.(*V); ok {
		value = *p
	}
	return value
}

// A loadOne is a Func whose value is a pointer in an any.
type loadOne func(ctx context.Context) (any, Life, error)

// A loadMany is a ManyFunc whose values are pointers in an any.
type loadMany func(ctx context.Context, keys []int) []loaded

// A loaded is a Loaded whose value is a pointer in an any.
type loaded struct {
	Value any
	Life  Life
	Err   error
}

func boxOne[V any](load Func[V]) loadOne {
	return func(ctx context.Context) (any, Life, error) {
		v, life, err := load(ctx)
		return &v, life, err
	}
}

// boxMany returns nil if load is nil.
func boxMany[V any](load ManyFunc[V]) loadMany {
	if load == nil {
		return nil
	}
	return func(ctx context.Context, keys []int) []loaded {
		typed := slices.Clone(load(ctx, keys)) // the values are pointed to from now on
		all := make([]loaded, len(typed))
		for i := range typed {
			one := &typed[i]
			all[i] = loaded{Value: &one.Value, Life: one.Life, Err: one.Err}
		}
		return all
	}
}
