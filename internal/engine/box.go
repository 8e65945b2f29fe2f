package engine

import (
	"context"
)

// A box is a pointer to a value, in an any. An Engine passes boxes on, and
// neither reads nor writes their values. So the Engine is compiled once for all
// types that a program caches. Only a Codec, a Target and Flights know the type
// of a value.

// A Codec is a codec of boxes. It is safe for concurrent use.
type Codec interface {
	// NewBox returns a pointer to a zero value.
	NewBox() any

	// AppendBox is codec.Keyed.AppendKeyed of the value in box.
	AppendBox(dst []byte, key string, box any) ([]byte, error)

	// DecodeBox is codec.Keyed.DecodeKeyed into box.
	DecodeBox(src []byte, key string, box any) error

	// Codec returns the codec of the values. If it authenticates, so does the
	// Engine; see codec.Keyed.
	Codec() any
}

// unbox returns the value in a box, or the zero value if box is nil.
func unbox[V any](box any) (value V) {
	if p, ok := box.(*V); ok {
		value = *p
	}
	return value
}

// A Func loads one key. It is loader.Func with its value in a box.
type Func func(ctx context.Context) (any, Life, error)

// A ManyFunc loads the keys with these indices, and returns one result for
// each.
type ManyFunc func(ctx context.Context, keys []int) []LoadResult

// A LoadResult is the result of a load for one key. Value is a box, or nil if
// there is no value.
type LoadResult struct {
	Value any
	Life  Life
	Err   error
}

// A KeyResult is the answer to one key of GetMany or LookupMany. Value is a
// box, or nil if there is no value.
type KeyResult struct {
	Value   any
	Outcome Outcome
	Err     error
}

// A Target receives the value of a hit, and loads on a miss. See
// Engine.GetOrLoad.
type Target interface {
	// Box returns a pointer to a zero value, which a hit sets. The Engine calls
	// Box at most once.
	Box() any

	// Load loads the value. See Func.
	Load(ctx context.Context) (any, Life, error)
}

// A Targets receives the values of several keys.
type Targets interface {
	// Box returns a pointer to a value, which may be zero, for the i-th key.
	Box(i int) any
}
