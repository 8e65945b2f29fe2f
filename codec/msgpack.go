package codec

import (
	"reflect"
	"sync"
	"unsafe"
)

// MessagePack returns a codec that stores values in the format of
// github.com/vmihailenco/msgpack, by its struct tags and by the methods and
// registrations that it honours.
//
// A struct is a map by the names of its fields, so fields may come and go: what
// the bytes lack is zero, what the struct lacks is skipped. Integers take the
// fewest bytes that hold them, but in an any, where int64 and the like keep their
// width and so their type. Map keys are sorted, so equal values have equal bytes.
//
// # What comes back
//
// If [Check] accepts V, then what Append accepts Decode returns, equal, with
// these exceptions:
//
//   - a time.Time keeps its instant to the nanosecond, and comes back in UTC;
//   - unexported fields, and fields with the tag msgpack:"-", come back zero;
//   - an any comes back as what msgpack makes of it: an int as the smallest type
//     that holds it, other integers, floats, bools, strings, bytes and times as
//     they are, a slice as []any, a map as map[string]any or, if a key is not a
//     string, as map[any]any, a struct as a map, what a pointer points to.
//
// omitempty leaves out what is zero and nothing else: an empty slice that is not
// nil comes back, and so does an any that holds a 0. Append refuses, with an
// [ErrEncode]: a pointer to nil, which would come back as nil; a part that
// encodes itself and does not take that back; a map with two keys that are
// encoded alike; a key in a map[any]V or a time as a key that would come back as
// another key; a map in an any with keys that come back as bytes, slices or maps.
//
// # Hostile bytes
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
// only, a map key with a pointer, a struct that is stored by the methods of a
// field that it embeds. Interned strings are not supported.
//
// Values are encoded and decoded by a program that is made of the type when the
// codec is first used, with what was registered with msgpack until then. Short
// strings of one value then share memory: a string that is kept holds up to a
// kilobyte.
func MessagePack[V any]() Codec[V] { return &typed[V]{as: messagePackOf(reflect.TypeFor[V]())} }

// messagePackOf is MessagePack of a type.
func messagePackOf(t reflect.Type) anyCodec {
	p, err := newPlan(t)
	if err != nil {
		return invalid{err}
	}
	return &untyped{typ: t, plan: p}
}

// untyped is a codec of the type typ. Of what it points to it is as sure as a
// step is.
type untyped struct {
	typ  reflect.Type
	plan *plan

	compile sync.Once
	program *program
}

// check returns nil, or a note.
func (c *untyped) check() error { return jsonNote(c.typ) }

func (c *untyped) deterministic() error { return nil }

// encode appends a variable in the format of msgpack. It refuses cycles, and what Decode
// would not take back.
func (c *untyped) encode(dst []byte, p any) (out []byte, err error) {
	defer catchAppend("a method of the value", dst, &out, &err)
	return c.append(dst, reflect.ValueOf(p).UnsafePointer())
}

// decodeInto reads src as msgpack does, but for what MessagePack says it refuses.
func (c *untyped) decodeInto(src []byte, p any) (err error) {
	defer catchCall("a method of the value", &err)
	return c.decode(src, reflect.ValueOf(p).UnsafePointer())
}

// compiled returns the program of the type. It is made when first asked for,
// since a codec may well be made before an init function registers a type.
func (c *untyped) compiled() *program {
	c.compile.Do(func() { c.program = compile(c.typ, c.plan, false) })
	return c.program
}

// append appends the variable at p. It panics with a *failure where it has no
// other way to return it.
func (c *untyped) append(dst []byte, p unsafe.Pointer) ([]byte, error) {
	if c.plan.nests {
		if err := checkDepth(c.plan.top, reflect.NewAt(c.typ, p).Elem(), false); err != nil {
			return dst, err
		}
	}
	out, err := c.compiled().append(dst, p)
	if err != nil {
		return dst, err
	}
	if c.plan.verify {
		if err := c.plan.check(out[len(dst):], 0); err != nil {
			return dst, unreadable(err)
		}
	}
	return out, nil
}

// decode reads src into the variable at p, which is zero.
func (c *untyped) decode(src []byte, p unsafe.Pointer) error {
	ok, spent := c.compiled().read(src, p)
	if ok {
		return nil
	}
	reflect.NewAt(c.typ, p).Elem().SetZero()
	return c.decodeByLibrary(src, p, spent)
}

// decodeByLibrary has msgpack read src into the variable at p, which is zero,
// if it is safe to. spent is as in check.
func (c *untyped) decodeByLibrary(src []byte, p unsafe.Pointer, spent int64) error {
	if err := c.plan.check(src, spent); err != nil {
		return err
	}
	v := reflect.NewAt(c.typ, p)
	if err := decodeMsgpack(src, v.Interface()); err != nil {
		return err
	}
	toUTC(c.plan.top, v.Elem())
	return nil
}

// unreadable is the error of encoding what Decode would refuse with err: better
// one error now than a miss at each read.
func unreadable(err error) error {
	return cannotEncode("the encoding would not decode: "+describe(err), err)
}
