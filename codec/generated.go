package codec

import (
	"reflect"
	"sync"
)

// msgpMarshaler and msgpUnmarshaler are the methods that tinylib/msgp
// generates. They are recognised by their signatures, so this module need not
// depend on it.
type (
	msgpMarshaler   interface{ MarshalMsg([]byte) ([]byte, error) }
	msgpUnmarshaler interface {
		UnmarshalMsg([]byte) ([]byte, error)
	}
)

// generatedFor returns the codec of a type that has those methods, or nil.
//
// The bytes are scanned before the methods read them, as for [MessagePack]. So
// no length exceeds the bytes, and nesting is bounded. The methods check
// integers themselves. They allocate a slice at once, with at most one element
// for each byte.
func generatedFor(t reflect.Type) anyCodec {
	c := &generated{typ: t}
	on := reflect.PointerTo(t)
	if t.Kind() == reflect.Pointer {
		c.elem, on = t.Elem(), t
	}
	if !on.Implements(reflect.TypeFor[msgpMarshaler]()) || !on.Implements(reflect.TypeFor[msgpUnmarshaler]()) {
		return nil
	}
	s, _, err := newShape(t, true)
	if err != nil {
		return invalid{err}
	}
	c.shape = s
	return c
}

// generated serves a type with the methods on it or on a pointer to it, and a
// pointer type with the methods. A nil pointer of the latter is stored as
// MessagePack's nil, since the methods cannot encode it.
type generated struct {
	typ   reflect.Type
	elem  reflect.Type // element type if typ is a pointer, else nil
	shape *shape
	spare sync.Pool // pointers to zero variables of typ
}

func (c *generated) check() error { return nil }

// deterministic returns an error if the type has a map.
func (c *generated) deterministic() error {
	if c.shape.hasMap(map[*shape]bool{}) {
		return misconfigured(errMapsOf, c.typ)
	}
	return nil
}

// encode calls MarshalMsg and scans the appended bytes.
func (c *generated) encode(dst []byte, p any) ([]byte, error) {
	again := c.spare.Get()
	if again == nil {
		again = reflect.New(c.typ).Interface()
	}
	out, err := c.append(dst, p, again)
	reflect.ValueOf(again).Elem().SetZero()
	c.spare.Put(again)
	return out, err
}

// append appends the variable at p, and decodes the bytes into the zero
// variable at again.
func (c *generated) append(dst []byte, p, again any) (out []byte, err error) {
	defer catchAppend("MarshalMsg", dst, &out, &err)
	if c.shape.nests {
		if err := checkDepth(c.shape, reflect.ValueOf(p).Elem(), true); err != nil {
			return dst, err
		}
	}
	with := p
	if c.elem != nil {
		v := reflect.ValueOf(p).Elem()
		if v.IsNil() {
			return append(dst, codeNil), nil
		}
		with = v.Interface()
	}
	if out, err = with.(msgpMarshaler).MarshalMsg(dst); err != nil {
		return dst, cannotEncode("MarshalMsg: "+describe(err), err)
	}
	// The methods may be written by hand, so their bytes are checked before
	// they are stored.
	if len(out) < len(dst) {
		return dst, errNotAppended
	}
	var s scan
	if err := s.all(out[len(dst):]); err != nil {
		return dst, unreadable(err)
	}
	if err := c.decodeInto(out[len(dst):], again); err != nil {
		return dst, unreadable(err)
	}
	return out, nil
}

var errNotAppended = cannotEncode("MarshalMsg did not append", nil)

// decodeInto scans src, and calls UnmarshalMsg only if src is sound.
func (c *generated) decodeInto(src []byte, p any) (err error) {
	defer catchCall("UnmarshalMsg", &err)
	var s scan
	if err := s.all(src); err != nil {
		return err
	}
	into := p
	if c.elem != nil {
		if src[0] == codeNil {
			return nil
		}
		v := reflect.New(c.elem)
		reflect.ValueOf(p).Elem().Set(v)
		into = v.Interface()
	}
	rest, err := into.(msgpUnmarshaler).UnmarshalMsg(src)
	if err != nil {
		return badFormat("UnmarshalMsg: "+describe(err), err)
	}
	if len(rest) > 0 {
		return errTrailing
	}
	return nil
}
