package codec

import (
	"reflect"
	"unsafe"
)

// ByLibrary returns a MessagePack[V] that leaves everything to msgpack.
func ByLibrary[V any]() Codec[V] {
	c := MessagePack[V]().(*typed[V])
	if u, ok := c.as.(*untyped); ok {
		u.compiled().top.becomeLeaf()
		c.as = byLibrary{u}
	}
	return c
}

type byLibrary struct{ *untyped }

func (c byLibrary) decodeInto(src []byte, p any) (err error) {
	defer catchCall("a method of the value", &err)
	return c.decodeByLibrary(src, reflect.ValueOf(p).UnsafePointer(), 0)
}

// Compiled reports whether the program for V does more than leave everything to
// msgpack.
func Compiled[V any]() bool {
	c, ok := MessagePack[V]().(*typed[V]).as.(*untyped)
	return ok && c.compiled().top.op != opLeaf
}

// ReadByProgram reads src with the program of c. ok reports whether the program
// is sure of src.
func ReadByProgram[V any](c Codec[V], src []byte) (v V, ok bool) {
	ok, _ = c.(*typed[V]).as.(*untyped).compiled().read(src, unsafe.Pointer(&v))
	return v, ok
}

// Dynamic is MessagePack of a type that is only known at run time.
type Dynamic struct{ untyped *untyped }

// MessagePackOf returns the codec of t, or an error that says why t is refused.
func MessagePackOf(t reflect.Type) (Dynamic, error) {
	p, err := newPlan(t)
	if err != nil {
		return Dynamic{}, err
	}
	return Dynamic{&untyped{typ: t, plan: p}}, nil
}

// Leaf reports whether the whole value is left to msgpack.
func (d Dynamic) Leaf() bool { return d.untyped.compiled().top.op == opLeaf }

// Append appends *p.
func (d Dynamic) Append(p reflect.Value) (out []byte, err error) {
	defer catchAppend("a method of the value", nil, &out, &err)
	return d.untyped.append(nil, p.UnsafePointer())
}

// Decode decodes src as Codec.Decode does.
func (d Dynamic) Decode(src []byte) (v reflect.Value, err error) {
	p := reflect.New(d.untyped.typ)
	return p.Elem(), d.untyped.decode(src, p.UnsafePointer())
}

// DecodeByProgram decodes src, if the program is sure of it.
func (d Dynamic) DecodeByProgram(src []byte) (v reflect.Value, ok bool) {
	p := reflect.New(d.untyped.typ)
	ok, _ = d.untyped.compiled().read(src, p.UnsafePointer())
	return p.Elem(), ok
}

// DecodeByLibrary decodes src as msgpack does.
func (d Dynamic) DecodeByLibrary(src []byte) (v reflect.Value, err error) {
	p := reflect.New(d.untyped.typ)
	return p.Elem(), d.untyped.decodeByLibrary(src, p.UnsafePointer(), 0)
}
