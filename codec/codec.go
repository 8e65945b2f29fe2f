// Package codec turns values into the bytes that a cache stores, and back.
//
// [For] chooses a codec by the type of the value. A cache uses it by default.
// The names of the others say how they store a value: [String], [Bytes], [Int],
// [Text], [JSON], [MessagePack]. Four more wrap another codec: [Compress],
// [Encrypt], [Version] and [Map].
//
// Bytes in Redis cannot be trusted: another release, another program or an
// attacker may have written them. Every codec here returns an error for bytes
// that it cannot read. It does so before it allocates much, and it never
// panics. A codec that hostile bytes can make allocate documents how much.
//
// Code that stores values under Redis keys calls [Check] and [Bind] once for
// its codec, then AppendKeyed and DecodeKeyed, because Encrypt needs the key.
//
// # Errors
//
// Every error of Append is an [ErrEncode] and every error of Decode is an
// [ErrFormat], as errors.Is reports. [ErrVersion], [ErrAuth], [ErrTooLarge] and
// [ErrConfig] are more specific. No error of this package prints the bytes or
// the value. An error returned by a method of the value's type may quote them.
// Its text is not printed, but it is in the chain for errors.As.
//
// A panic of a method of the value's type, or of a function given to [Map], is
// returned as an error.
package codec

import "reflect"

// Codec encodes values of one type. It is safe for concurrent use.
//
// The package codectest has a test that every Codec should pass.
type Codec[V any] interface {
	// Append appends the bytes of v to dst, which may be nil, and returns the
	// extended slice. It retains neither dst nor any part of v. After an error
	// it returns dst unchanged.
	Append(dst []byte, v V) ([]byte, error)

	// Decode sets *v to the value that src holds. It replaces *v completely:
	// nothing of the old value remains. It does not retain src, and nothing in
	// *v refers to src afterwards. After an error every codec of this package
	// leaves the zero value in *v. The caller should not use it.
	Decode(src []byte, v *V) error
}

// For returns the codec that suits V:
//
//   - strings, byte slices, and types defined from them are stored unchanged,
//     as by [String] and [Bytes];
//   - integers, and types defined from them, are stored in decimal, as by
//     [Int], so that redis-cli shows them. In a cache they follow the header of
//     an entry, so INCR refuses them;
//   - types with the methods that tinylib/msgp generates, MarshalMsg and
//     UnmarshalMsg, are stored by these methods. V may be the type or a pointer
//     to it;
//   - all other types are stored by [MessagePack].
//
// For looks at the kind of V first. A type defined from string is stored as
// that string even if it has methods to marshal it. To call these methods, use
// [Text] or name another codec.
//
// If V cannot be stored, [Check] of the codec says why, and so does each call.
func For[V any]() Codec[V] { return &typed[V]{as: codecOf(reflect.TypeFor[V]())} }

// codecOf is [For] with the type as a value.
func codecOf(t reflect.Type) anyCodec {
	switch t.Kind() {
	case reflect.String:
		return stringCodec{}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return intCodec{}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return uintCodec{}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return bytesCodec{}
		}
	}
	if c := generatedFor(t); c != nil {
		return c
	}
	return messagePackOf(t)
}

// Check returns nil, or an error that says why c can never work. For example, V
// has a field of a type that c cannot carry, or a key of [Encrypt] has the
// wrong length. It looks at types and settings, not at values, and looks
// through wrappers. The error is an [ErrConfig].
//
// If c works but may surprise its user, the error is an [ErrNote]. For example,
// [MessagePack] stores a field with the tag json:"-".
//
// Constructors that take a codec call Check and refuse a codec with any error
// except an ErrNote. Constructors of codecs return no error, so that they can
// be called in a composite literal.
//
// A codec of another package takes part if it has a method Check() error.
func Check[V any](c Codec[V]) error {
	if c == nil {
		return misconfigured("codec is nil")
	}
	if c, ok := c.(interface{ Check() error }); ok {
		return c.Check()
	}
	return nil
}
