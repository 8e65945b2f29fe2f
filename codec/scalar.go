package codec

import (
	"reflect"
	"strconv"
)

// String returns a codec that stores a string unchanged, whatever its bytes.
// Any bytes decode. Decode allocates the string and nothing else.
func String[V ~string]() Codec[V] { return &typed[V]{as: stringCodec{}} }

// Bytes returns a codec that stores a byte slice unchanged. Any bytes decode. A
// nil slice and an empty slice are both stored as no bytes, which decode to an
// empty slice that is not nil. Decode allocates the slice and nothing else.
func Bytes[V ~[]byte]() Codec[V] { return &typed[V]{as: bytesCodec{}} }

// Integer is the set of the types that [Int] stores.
type Integer interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 |
		~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}

// Int returns a codec that stores an integer in decimal, as Redis' INCRBY does.
// It decodes the form that it and Redis write and nothing else: no space, no
// plus sign, no leading zero, no exponent. It refuses a number that V cannot
// hold. Decode does not allocate. Append allocates only if dst must grow.
func Int[V Integer]() Codec[V] {
	if ^V(0) < 0 {
		return &typed[V]{as: intCodec{}}
	}
	return &typed[V]{as: uintCodec{}}
}

// These codecs switch on the kind of V at run time, and so serve [For] as well.
// Reflection on a pointer to a scalar does not allocate.

type stringCodec struct{ sure }

func (stringCodec) encode(dst []byte, p any) ([]byte, error) {
	return append(dst, reflect.ValueOf(p).Elem().String()...), nil
}

// decodeInto stores src as the string. It never fails.
func (stringCodec) decodeInto(src []byte, p any) error {
	reflect.ValueOf(p).Elem().SetString(string(src))
	return nil
}

type bytesCodec struct{ sure }

func (bytesCodec) encode(dst []byte, p any) ([]byte, error) {
	return append(dst, reflect.ValueOf(p).Elem().Bytes()...), nil
}

// decodeInto copies src. It never fails. If src is empty, it makes an empty
// slice that is not nil.
func (bytesCodec) decodeInto(src []byte, p any) error {
	// bytes.Clone does not serve: it returns a nil slice if src is nil.
	reflect.ValueOf(p).Elem().SetBytes(append([]byte{}, src...))
	return nil
}

type intCodec struct{ sure }

func (intCodec) encode(dst []byte, p any) ([]byte, error) {
	return strconv.AppendInt(dst, reflect.ValueOf(p).Elem().Int(), 10), nil
}

// decodeInto reads the form that encode and Redis write, and nothing else.
func (intCodec) decodeInto(src []byte, p any) error {
	n, ok := parseInt(src)
	if !ok {
		return errNotInteger
	}
	e := reflect.ValueOf(p).Elem()
	if e.OverflowInt(n) {
		return errOutOfRange
	}
	e.SetInt(n)
	return nil
}

type uintCodec struct{ sure }

func (uintCodec) encode(dst []byte, p any) ([]byte, error) {
	return strconv.AppendUint(dst, reflect.ValueOf(p).Elem().Uint(), 10), nil
}

// decodeInto reads the form that encode and Redis write, and nothing else.
func (uintCodec) decodeInto(src []byte, p any) error {
	n, ok := parseUint(src)
	if !ok {
		return errNotInteger
	}
	e := reflect.ValueOf(p).Elem()
	if e.OverflowUint(n) {
		return errOutOfRange
	}
	e.SetUint(n)
	return nil
}

var (
	errNotInteger = badFormat("not a decimal integer of 64 bits", nil)
	errOutOfRange = badFormat("an integer out of the range of its type", nil)
)

// parseInt parses the output of strconv.AppendInt, and only that. The functions
// of strconv accept "+1" and "007" too.
func parseInt(src []byte) (int64, bool) {
	if len(src) > 0 && src[0] == '-' {
		n, ok := parseUint(src[1:])
		return -int64(n), ok && n > 0 && n <= 1<<63
	}
	n, ok := parseUint(src)
	return int64(n), ok && n < 1<<63
}

// parseUint parses the output of strconv.AppendUint, and only that.
func parseUint(src []byte) (n uint64, ok bool) {
	if len(src) == 0 || src[0] == '0' && len(src) > 1 {
		return 0, false
	}
	for _, c := range src {
		digit := uint64(c - '0')
		if c < '0' || digit > 9 || n > (1<<64-1-digit)/10 {
			return 0, false
		}
		n = n*10 + digit
	}
	return n, true
}
