package codec

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Version returns a codec that stores n before the bytes of c and decodes only
// what was stored with the same n. Bytes of another version are an [ErrVersion],
// which a cache takes for a miss; so raising n when V changes its meaning makes
// every entry of before be loaded again, and old and new processes can run side
// by side, though each then overwrites the entries of the other.
//
// Fields that were added to or removed from a struct need no new version with
// [MessagePack] and [JSON]: they are zero, or are skipped.
//
// The version takes one byte for n below 128. It adds no allocation.
func Version[V any](c Codec[V], n uint32) Codec[V] {
	return &versioned[V]{sealerOf(c), Bind(c), n, binary.AppendUvarint(nil, uint64(n))}
}

type versioned[V any] struct {
	sealer
	inner  Keyed[V]
	n      uint32
	prefix []byte // n as a uvarint. No such prefix is a prefix of another
}

// Check checks the codec inside.
func (c *versioned[V]) Check() error { return Check(c.inner) }

// Append is AppendKeyed without a key.
func (c *versioned[V]) Append(dst []byte, v V) ([]byte, error) { return c.AppendKeyed(dst, "", v) }

// Decode is DecodeKeyed without a key.
func (c *versioned[V]) Decode(src []byte, v *V) error { return c.DecodeKeyed(src, "", v) }

// AppendKeyed appends the version and what the codec inside makes.
func (c *versioned[V]) AppendKeyed(dst []byte, key string, v V) ([]byte, error) {
	out, err := c.inner.AppendKeyed(append(dst, c.prefix...), key, v)
	if err != nil {
		return dst, err
	}
	return out, nil
}

// DecodeKeyed hands what follows the version to the codec inside. Another
// version is an [ErrVersion].
func (c *versioned[V]) DecodeKeyed(src []byte, key string, v *V) error {
	if bytes.HasPrefix(src, c.prefix) {
		return c.inner.DecodeKeyed(src[len(c.prefix):], key, v)
	}
	*v = *new(V)
	n, size := binary.Uvarint(src)
	if size <= 0 || n > 1<<32-1 {
		return errNoVersion
	}
	return &failure{fmt.Sprintf("bytes of version %d, want %d", n, c.n), []error{ErrVersion}}
}

var errNoVersion = badFormat("no version before the bytes", nil)
