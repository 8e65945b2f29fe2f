package codec

// Keyed is a [Codec] whose bytes may be bound to the Redis key that holds them.
// [Encrypt] binds them: under another key they do not decode. [Compress],
// [Version] and [Map] are Keyed too, and pass the key on to the inner codec.
//
// The key is the full name under which Redis holds the bytes. For a field of a
// hash it is the name of the hash and the field, in a form that is distinct for
// distinct pairs. It is never empty: an empty key means that there is no key.
// AppendKeyed is Append with a key, and DecodeKeyed is Decode with a key.
//
// A codec that authenticates its bytes, as [Encrypt] does, may have three more
// methods:
//
//	Authenticates() bool
//	AppendNone(dst []byte, key string) ([]byte, error)
//	DecodeNone(src []byte, key string) error
//
// If Authenticates returns true, a cache believes that a key has no value only
// if DecodeNone accepts the bytes that AppendNone made. The key that the cache
// then passes to all methods has three parts:
//
//   - the name under which Redis holds the bytes;
//   - a zero byte;
//   - 6 bytes that say when the value or its absence ends.
type Keyed[V any] interface {
	Codec[V]
	AppendKeyed(dst []byte, key string, v V) ([]byte, error)
	DecodeKeyed(src []byte, key string, v *V) error
}

// Bind returns c if c is a [Keyed], and otherwise a Keyed that ignores the key.
// Code that stores values under keys binds its codec once, and then calls
// AppendKeyed and DecodeKeyed.
func Bind[V any](c Codec[V]) Keyed[V] {
	if c == nil {
		return keyless[V]{refused[V](misconfigured("codec is nil"))}
	}
	if k, ok := c.(Keyed[V]); ok {
		return k
	}
	return keyless[V]{c}
}

// keyless is a Keyed that ignores the key.
type keyless[V any] struct{ Codec[V] }

// AppendKeyed is Append of the inner codec.
func (k keyless[V]) AppendKeyed(dst []byte, _ string, v V) ([]byte, error) {
	return k.Codec.Append(dst, v)
}

// DecodeKeyed is Decode of the inner codec.
func (k keyless[V]) DecodeKeyed(src []byte, _ string, v *V) error {
	return k.Codec.Decode(src, v)
}

// Check checks the inner codec.
func (k keyless[V]) Check() error { return Check(k.Codec) }
