package codec

import "unsafe"

// ByLibrary returns MessagePack[V] without a program: msgpack does it all.
func ByLibrary[V any]() Codec[V] {
	c := MessagePack[V]()
	if m, ok := c.(*msgpackCodec[V]); ok {
		m.compile.Do(func() {})
	}
	return c
}

// Compiled tells whether there is a program for V.
func Compiled[V any]() bool {
	c, ok := MessagePack[V]().(*msgpackCodec[V])
	return ok && c.compiled() != nil
}

// ReadByProgram tells whether the program of c is sure of src, and what it reads.
func ReadByProgram[V any](c Codec[V], src []byte) (v V, ok bool) {
	ok, _ = c.(*msgpackCodec[V]).compiled().read(src, unsafe.Pointer(&v))
	return v, ok
}
