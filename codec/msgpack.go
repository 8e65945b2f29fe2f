package codec

import (
	"bytes"
	"reflect"
	"sync"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"
)

// MessagePack returns a codec that stores values as github.com/vmihailenco/msgpack
// does, by its struct tags and by the methods and registrations that it honours.
//
// A struct is a map by the names of its fields, so fields may come and go: what
// the bytes lack is zero, what the struct lacks is skipped. A time.Time keeps
// its instant to the nanosecond and comes back in the local zone. Integers take
// the fewest bytes that hold them, unless there is an any in V; then int64 and
// the like keep their width and so their type. An any decodes to what msgpack
// makes of it: an integer type, string, []any, map[string]any and so on, never
// to a struct. Maps are stored in no order.
//
// What msgpack leaves open is closed before it sees the bytes:
//
//   - they are one whole value and nothing else, nested at most 512 deep;
//   - an integer that does not fit its field is an error;
//   - nil at the top is an error unless V has a nil;
//   - decoding allocates at most about 256 bytes for each of theirs, or 4 MiB
//     if that is more. This counts what V's type makes of them, since an empty
//     struct is one byte in a slice of structs of any size. A type's own
//     DecodeMsgpack is on its own.
//
// If a field's name or a key comes twice, the last value counts, or is merged
// into a struct, map or array of before; twice for an any is an error.
//
// A value that leads back to itself is an [ErrTooLarge] of Append, where msgpack
// alone would end the process.
//
// V may hold strings, numbers, bools, times, any, and structs, pointers, slices,
// arrays and maps of these; [Check] names the field that is something else, or
// that would be lost: two fields of one name, a struct with unexported fields
// only. Interned strings are not supported.
//
// Types without an any and without methods of their own are encoded and decoded
// by a program that is made of the type when the codec is first used, with what
// was registered with msgpack until then. Short strings of one value then share
// memory: who keeps one of them keeps up to a kilobyte.
func MessagePack[V any]() Codec[V] {
	p, err := newPlan(reflect.TypeFor[V]())
	if err != nil {
		return invalid[V]{err}
	}
	return &msgpackCodec[V]{plan: p}
}

type msgpackCodec[V any] struct {
	plan     *plan
	encoders sync.Pool // of *msgpackEncoder[V]

	compile sync.Once
	program *program // nil: all is left to msgpack
}

// compiled returns the program of V, or nil. It is made when first asked for,
// since a codec may well be made before an init function registers a type.
func (c *msgpackCodec[V]) compiled() *program {
	c.compile.Do(func() { c.program = compile(reflect.TypeFor[V](), c.plan) })
	return c.program
}

// msgpackEncoder is what one Append needs. The encoder is given a pointer to v:
// so v is not copied to the heap each time, and can be addressed, without which
// methods with a pointer receiver would not be found.
type msgpackEncoder[V any] struct {
	enc *msgpack.Encoder // nil until there is need of it
	buf buffer
	v   V
}

// Append appends v as msgpack writes it. It refuses cycles, and what Decode would
// not take back.
func (c *msgpackCodec[V]) Append(dst []byte, v V) (out []byte, err error) {
	defer catchAppend("a method of the value", dst, &out, &err)
	e, ok := c.encoders.Get().(*msgpackEncoder[V])
	if !ok {
		e = new(msgpackEncoder[V])
	}
	e.v = v
	if c.plan.nests {
		if err := checkDepth(c.plan.top, reflect.ValueOf(&e.v).Elem(), false); err != nil {
			return dst, err
		}
	}
	if p := c.compiled(); p != nil {
		out, err = p.append(dst, unsafe.Pointer(&e.v))
	} else {
		out, err = e.append(dst, c.plan.compact)
	}
	if err != nil {
		return dst, err
	}
	// After an error or a panic the encoder is left to the garbage collector:
	// there is no telling what state it is in.
	e.v = *new(V)
	c.encoders.Put(e)
	if c.plan.verify {
		if err := c.plan.check(out[len(dst):], 0); err != nil {
			return dst, unreadable(err)
		}
	}
	return out, nil
}

// append has msgpack append e.v.
func (e *msgpackEncoder[V]) append(dst []byte, compact bool) ([]byte, error) {
	if e.enc == nil {
		e.enc = msgpack.NewEncoder(nil)
	}
	e.buf.b = dst
	e.enc.Reset(&e.buf)
	e.enc.UseCompactInts(compact)
	if err := e.enc.Encode(&e.v); err != nil {
		return dst, cannotEncode(describe(err), err)
	}
	out := e.buf.b
	e.buf.b = nil
	return out, nil
}

// unreadable is the error of encoding what Decode would refuse with err: better
// one error now than a miss at each read.
func unreadable(err error) error {
	return cannotEncode("the encoding would not decode: "+describe(err), err)
}

// msgpackDecoder is what one Decode needs, of whatever type.
type msgpackDecoder struct {
	dec *msgpack.Decoder
	r   bytes.Reader
}

var msgpackDecoders = sync.Pool{New: func() any {
	return &msgpackDecoder{dec: msgpack.NewDecoder(nil)}
}}

// Decode reads src as msgpack does, but for what MessagePack says it refuses.
func (c *msgpackCodec[V]) Decode(src []byte, v *V) (err error) {
	defer catchDecode("a method of the value", v, &err)
	*v = *new(V)
	spent := int64(0)
	if p := c.compiled(); p != nil {
		var ok bool
		if ok, spent = p.read(src, unsafe.Pointer(v)); ok {
			return nil
		}
		*v = *new(V)
	}
	if err := c.plan.check(src, spent); err != nil {
		return err
	}
	return decodeMsgpack(src, v)
}

// decodeMsgpack has msgpack decode src, which was checked, into v, which is zero.
func decodeMsgpack(src []byte, v any) error {
	d := msgpackDecoders.Get().(*msgpackDecoder)
	d.r.Reset(src)
	// Without UsePreallocateValues, which Unmarshal sets: for each type it
	// starts a goroutine that never ends.
	d.dec.Reset(&d.r)
	if err := d.dec.Decode(v); err != nil {
		// The decoder is not put back: it may go on recording what it reads.
		return badFormat(describe(err), err)
	}
	left := d.r.Len()
	d.r.Reset(nil)
	if len(src) <= maxPooled { // its buffer has grown to the longest string
		msgpackDecoders.Put(d)
	}
	if left > 0 {
		return errTrailing // a method of the value read less than it wrote
	}
	return nil
}
