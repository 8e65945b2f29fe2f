package codec

import (
	"reflect"
	"sync"
	"unsafe"
)

// MessagePack returns a codec that stores values in the format of
// github.com/vmihailenco/msgpack. It honours that package's struct tags,
// methods and registrations.
//
// A struct is a map by the names of its fields, so fields may be added and
// removed. A field that the bytes lack is zero, and a field that the struct
// lacks is skipped. Integers take the fewest bytes that hold them. In an any,
// int64 and the like keep their width and therefore their type. Map keys are
// sorted, so equal values have equal bytes.
//
// # Round trips
//
// If [Check] accepts V, Decode returns every value that Append accepts, equal,
// with these exceptions:
//
//   - a time.Time keeps its instant to the nanosecond, and comes back in UTC;
//   - unexported fields, and fields with the tag msgpack:"-", come back zero;
//   - an any comes back as the type that msgpack decodes, as described below.
//
// In an any, an int comes back as the smallest type that holds it. Other
// integers, floats, bools, strings, bytes and times come back unchanged. A
// slice comes back as []any and a struct as a map. A map comes back as
// map[string]any or, if a key is not a string, as map[any]any. A pointer comes
// back as its target.
//
// omitempty leaves out zero values only: an empty slice that is not nil comes
// back, and so does an any that holds a 0. Append refuses these values with an
// [ErrEncode]:
//
//   - a pointer to nil, which would come back as nil;
//   - a part that encodes itself and does not decode the result;
//   - a map with two keys that are encoded alike;
//   - a key in a map[any]V, or a time as a key, that would come back as another
//     key;
//   - a map in an any with keys that come back as bytes, slices or maps.
//
// # Hostile bytes
//
// msgpack leaves these points open. Decode checks them before msgpack sees the
// bytes:
//
//   - the bytes are exactly one whole value, nested at most 512 deep;
//   - an integer that does not fit its field is an error;
//   - nil at the top level is an error unless V has a nil;
//   - decoding allocates at most about 256 bytes for each byte of src, or 4 MiB
//     if that is more. The limit takes V's type into account, since in a slice
//     of structs of any size an empty struct is one byte. It does not cover a
//     type's own DecodeMsgpack.
//
// If a field name or a key occurs twice, the last value wins, or is merged into
// the earlier struct, map or array. If the type of the value is any, a second
// value is an error.
//
// A value that contains itself is an [ErrTooLarge] of Append. msgpack alone
// would end the process.
//
// V may hold strings, numbers, bools, times, any, and structs, pointers,
// slices, arrays and maps of these. [Check] names a field of any other type. It
// also names a field that would be lost:
//
//   - one of two fields with the same name;
//   - a struct with unexported fields only;
//   - a map key with a pointer;
//   - a struct that is stored by the methods of a field that it embeds.
//
// Interned strings are not supported.
//
// When the codec is first used, it compiles a program from the type, which
// encodes and decodes its values. The program honours the types registered with
// msgpack until then. Short strings of one value then share memory, so a string
// that is kept can hold up to a kilobyte.
func MessagePack[V any]() Codec[V] { return &typed[V]{as: messagePackOf(reflect.TypeFor[V]())} }

// messagePackOf is MessagePack with the type as a value.
func messagePackOf(t reflect.Type) anyCodec {
	p, err := newPlan(t)
	if err != nil {
		return invalid{err}
	}
	return &untyped{typ: t, plan: p}
}

// untyped is a codec of the type typ. Its pointers are as safe as the pointers
// of a [step].
type untyped struct {
	typ  reflect.Type
	plan *plan

	compile sync.Once
	program *program
}

// check returns nil or a note.
func (c *untyped) check() error { return jsonNote(c.typ) }

func (c *untyped) deterministic() error { return nil }

// encode appends the variable in the format of msgpack. It refuses cycles, and
// values that Decode would not accept.
func (c *untyped) encode(dst []byte, p any) (out []byte, err error) {
	defer catchAppend("a method of the value", dst, &out, &err)
	return c.append(dst, reflect.ValueOf(p).UnsafePointer())
}

// decodeInto reads src as msgpack does, except for the bytes that [MessagePack]
// refuses.
func (c *untyped) decodeInto(src []byte, p any) (err error) {
	defer catchCall("a method of the value", &err)
	return c.decode(src, reflect.ValueOf(p).UnsafePointer())
}

// compiled returns the program of the type. It compiles it on first use, since
// a codec may be created before an init function registers a type.
func (c *untyped) compiled() *program {
	c.compile.Do(func() { c.program = compile(c.typ, c.plan, false) })
	return c.program
}

// append appends the variable at p. It panics with a *failure where it cannot
// return an error.
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

// decode reads src into the zero variable at p.
func (c *untyped) decode(src []byte, p unsafe.Pointer) error {
	ok, spent := c.compiled().read(src, p)
	if ok {
		return nil
	}
	reflect.NewAt(c.typ, p).Elem().SetZero()
	return c.decodeByLibrary(src, p, spent)
}

// decodeByLibrary has msgpack read src into the zero variable at p, if that is
// safe. spent is as in check.
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

// unreadable is the error of encoding a value that Decode would refuse with
// err. One error now is better than a miss at each read.
func unreadable(err error) error {
	return cannotEncode("the encoding would not decode: "+describe(err), err)
}
