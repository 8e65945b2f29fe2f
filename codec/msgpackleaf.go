package codec

import (
	"bytes"
	"reflect"
	"sync"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"
)

// leafEncoder holds the state with which msgpack encodes one leaf.
type leafEncoder struct {
	enc *msgpack.Encoder
	buf buffer
}

var leafEncoders = sync.Pool{New: func() any { return &leafEncoder{enc: msgpack.NewEncoder(nil)} }}

// appendLeaf has msgpack append the variable at p. A leaf encodes itself, so
// its bytes may be anything. They must be one value, and decode.
func (s *step) appendLeaf(b []byte, p unsafe.Pointer) []byte {
	v := reflect.NewAt(s.typ, p).Elem()
	out, err := msgpackAppend(b, v, s.compact)
	if err != nil {
		panic(cannotEncode(describe(err), err))
	}
	leaf := out[len(b):]
	var all scan
	if err := all.all(leaf); err != nil {
		panic(unreadable(err))
	}
	if leaf[0] == codeNil {
		if nilable(s.typ) && !v.IsNil() && !s.wide {
			panic(errPointerToNil)
		}
		return out
	}
	if s.wide {
		err = decodeMsgpack(leaf, new(any))
	} else {
		err = decodeLeaf(leaf, reflect.New(s.typ).Elem())
	}
	if err != nil {
		panic(unreadable(err))
	}
	return out
}

// msgpackAppend has msgpack append v, which must be addressable.
func msgpackAppend(dst []byte, v reflect.Value, compact bool) ([]byte, error) {
	e := leafEncoders.Get().(*leafEncoder)
	e.buf.b = dst
	e.enc.Reset(&e.buf)
	e.enc.UseCompactInts(compact)
	if err := e.enc.EncodeValue(v); err != nil {
		return dst, err // the encoder is dropped, since it may remember the error
	}
	out := e.buf.b
	e.buf.b = nil
	e.enc.Reset(nil)
	leafEncoders.Put(e)
	return out, nil
}

// leaf has msgpack read the value at pos, if that is safe.
func (r *reader) leaf(s *step, p unsafe.Pointer, pos int) int {
	end := r.skip(pos)
	if end == lost {
		return lost
	}
	src := r.src[pos:end]
	c := comparison{scan: scan{src: src}, limit: r.left}
	if c.value(s.shape, 0); c.err != nil {
		return lost
	}
	r.left = c.limit
	v := reflect.NewAt(s.typ, p).Elem()
	if decodeLeaf(src, v) != nil {
		return lost
	}
	toUTC(s.shape, v)
	return end
}

// decodeLeaf has msgpack decode the scanned bytes src into v, which is zero.
func decodeLeaf(src []byte, v reflect.Value) error {
	return decodeBy(src, func(d *msgpack.Decoder) error { return d.DecodeValue(v) })
}

// decodeMsgpack has msgpack decode the checked bytes src into *v, which is
// zero.
func decodeMsgpack(src []byte, v any) error {
	return decodeBy(src, func(d *msgpack.Decoder) error { return d.Decode(v) })
}

// msgpackDecoder holds the state of one Decode, of any type.
type msgpackDecoder struct {
	dec *msgpack.Decoder
	r   bytes.Reader
}

var msgpackDecoders = sync.Pool{New: func() any {
	return &msgpackDecoder{dec: msgpack.NewDecoder(nil)}
}}

// decodeBy calls decode with a decoder that reads src, and requires that it
// reads all of src.
func decodeBy(src []byte, decode func(*msgpack.Decoder) error) error {
	d := msgpackDecoders.Get().(*msgpackDecoder)
	d.r.Reset(src)
	// UsePreallocateValues, which Unmarshal sets, is not set: it starts a
	// goroutine for each type that never ends.
	d.dec.Reset(&d.r)
	d.dec.SetMapDecoder(decodeMapInAny)
	if err := decode(d.dec); err != nil {
		// The decoder is not reused: it may go on recording its input.
		return badFormat(describe(err), err)
	}
	left := d.r.Len()
	d.r.Reset(nil)
	if len(src) <= maxPooled { // the buffer has grown to the longest string
		msgpackDecoders.Put(d)
	}
	if left > 0 {
		return errTrailing // a method of the value read less than it wrote
	}
	return nil
}
