package codec

// Keyed is a [Codec] whose bytes are bound to the Redis key that holds them,
// as those of [Encrypt] are: under another key they do not decode. [Compress],
// [Version] and [Map] are Keyed too and hand the key on to what they wrap.
//
// The key is the whole name under which Redis holds the bytes, and for a field
// of a hash the name of the hash and the field in some form that is distinct
// for distinct pairs. It is never empty: an empty key means that there is none.
// What Append does, AppendKeyed does with a key, and so with Decode.
//
// A codec that authenticates its bytes, as [Encrypt] does, may have three more
// methods: Authenticates() bool, AppendNone(dst []byte, key string) ([]byte,
// error) and DecodeNone(src []byte, key string) error. If Authenticates returns
// true, a cache believes that a key has no value only if DecodeNone takes the
// bytes that AppendNone made; and the key that it passes to all methods is the
// name under which Redis holds the bytes, a zero byte, and 6 bytes that say when
// the value or its absence ends.
type Keyed[V any] interface {
	Codec[V]
	AppendKeyed(dst []byte, key string, v V) ([]byte, error)
	DecodeKeyed(src []byte, key string, v *V) error
}

// Bind returns c as a [Keyed]: c itself if it is one, else one that ignores the
// key. Whoever stores values under keys binds its codec once, and then calls
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

// keyless is a Keyed that has no use for the key.
type keyless[V any] struct{ Codec[V] }

// AppendKeyed is Append of the codec inside.
func (k keyless[V]) AppendKeyed(dst []byte, _ string, v V) ([]byte, error) {
	return k.Codec.Append(dst, v)
}

// DecodeKeyed is Decode of the codec inside.
func (k keyless[V]) DecodeKeyed(src []byte, _ string, v *V) error {
	return k.Codec.Decode(src, v)
}

// Check checks the codec inside.
func (k keyless[V]) Check() error { return Check(k.Codec) }
