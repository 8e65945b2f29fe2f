// Package codec turns values into the bytes that a cache stores, and back.
//
// [For] chooses a codec by the type of the value, which is what a cache does
// when it is told nothing. The others say what they are: [String], [Bytes],
// [Int], [Text], [JSON], [MessagePack]. Four more wrap another codec:
// [Compress], [Encrypt], [Version] and [Map].
//
// Bytes in Redis are not to be trusted: another release, another program or an
// attacker may have written them. So every codec here answers bytes that it
// cannot read with an error, before it allocates much and without ever
// panicking; those that can be made to allocate say how much.
//
// Whoever stores values under Redis keys calls [Check] and [Bind] once for its
// codec, then AppendKeyed and DecodeKeyed, because Encrypt needs the key.
//
// # Errors
//
// Every error of Append is an [ErrEncode] and every error of Decode is an
// [ErrFormat], in the sense of errors.Is; [ErrVersion], [ErrAuth],
// [ErrTooLarge] and [ErrConfig] tell more. No error of this package prints the
// bytes or the value. What a method of the value's type returned, which may
// quote them, is not printed either but is in the chain for errors.As.
//
// A panic of a method of the value's type, or of a function given to [Map], is
// returned as an error.
package codec

import "reflect"

// A Codec encodes values of one type. It is safe for concurrent use.
//
// The package codectest has a test that every Codec ought to pass.
type Codec[V any] interface {
	// Append appends the bytes of v to dst, which may be nil, and returns the
	// extended slice. It keeps neither dst nor anything of v. After an error
	// the slice returned is dst as it was given.
	Append(dst []byte, v V) ([]byte, error)

	// Decode sets *v to the value that src holds. It replaces *v wholly:
	// nothing of what was there before remains. It does not keep src, and
	// nothing in *v refers to src afterwards. After an error *v is the zero
	// value of V in every codec of this package; no caller should use it.
	Decode(src []byte, v *V) error
}

// For returns the codec that suits V:
//
//   - strings and slices of bytes, and types made of them, are stored as they
//     are, as by [String] and [Bytes];
//   - integers, and types made of them, are stored in decimal, as by [Int], so
//     that redis-cli shows them. In a cache they stand behind the header of an
//     entry, so INCR refuses them;
//   - types with the methods that tinylib/msgp generates, MarshalMsg and
//     UnmarshalMsg, are stored by these. V may be the type or a pointer to it;
//   - all others are stored by [MessagePack].
//
// It goes by the kind of V first, so a type made of a string is stored as that
// string even if it has methods to marshal it: use [Text], or name another
// codec, if these are to be called.
//
// If V cannot be stored, [Check] of the codec says why, and so does each call.
func For[V any]() Codec[V] { return &typed[V]{as: codecOf(reflect.TypeFor[V]())} }

// codecOf is For of a type.
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

// Check reports why c can never work, or nil: V has a field of a type that c
// cannot carry, a key of [Encrypt] has the wrong length, and so on. It looks at
// types and settings, not at values, and goes through wrappers. The error is an
// [ErrConfig].
//
// If c works, and yet does what its user may not expect, the error is an
// [ErrNote] instead: a field with the tag json:"-" is stored by [MessagePack].
//
// Constructors that take a codec call Check and refuse a codec with any error
// but an ErrNote. Constructors of codecs return no error, in order to stand in a
// composite literal.
//
// A codec of another package takes part by having a method Check() error.
func Check[V any](c Codec[V]) error {
	if c == nil {
		return misconfigured("codec is nil")
	}
	if c, ok := c.(interface{ Check() error }); ok {
		return c.Check()
	}
	return nil
}
