package codec

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Version returns a codec that stores n before the bytes of c, and decodes only
// bytes that were stored with the same n. Bytes of another version are an
// [ErrVersion], which a cache treats as a miss.
//
// If the meaning of V changes, raise n. Then every older entry is loaded again.
// Old and new processes can run at the same time, but each overwrites the
// entries of the other.
//
// With [MessagePack] and [JSON], adding or removing a field of a struct needs
// no new version. An added field is zero, and a removed field is skipped.
//
// The version takes one byte if n is below 128. It adds no allocation.
func Version[V any](c Codec[V], n uint32) Codec[V] {
	return &versioned[V]{sealerOf(c), Bind(c), n, binary.AppendUvarint(nil, uint64(n))}
}

type versioned[V any] struct {
	sealer
	inner  Keyed[V]
	n      uint32
	prefix []byte // n as a uvarint; no such prefix is a prefix of another
}

// Check checks the inner codec.
func (c *versioned[V]) Check() error { return Check(c.inner) }

// Append is AppendKeyed with an empty key.
func (c *versioned[V]) Append(dst []byte, v V) ([]byte, error) { return c.AppendKeyed(dst, "", v) }

// Decode is DecodeKeyed with an empty key.
func (c *versioned[V]) Decode(src []byte, v *V) error { return c.DecodeKeyed(src, "", v) }

// AppendKeyed appends the version and the bytes of the inner codec.
func (c *versioned[V]) AppendKeyed(dst []byte, key string, v V) ([]byte, error) {
	out, err := c.inner.AppendKeyed(append(dst, c.prefix...), key, v)
	if err != nil {
		return dst, err
	}
	return out, nil
}

// DecodeKeyed passes the bytes after the version to the inner codec. Another
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
