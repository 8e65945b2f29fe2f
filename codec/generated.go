package codec

import (
	"reflect"
	"sync"
)

// msgpMarshaler and msgpUnmarshaler are the methods that tinylib/msgp generates.
// They are known by their form, so that this module need not depend on it.
type (
	msgpMarshaler   interface{ MarshalMsg([]byte) ([]byte, error) }
	msgpUnmarshaler interface {
		UnmarshalMsg([]byte) ([]byte, error)
	}
)

// generatedFor returns the codec of a type that has those methods, or nil.
//
// What they read is scanned first as for [MessagePack], so nothing is deeper,
// longer or shorter than it says. The methods see to integers themselves; a
// slice they make at once, at the size of its elements for each byte at most.
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

// generated serves a type with the methods on it or a pointer to it, and one that is
// itself the pointer. A nil of the latter is MessagePack's nil, for which the methods
// have no form of their own.
type generated struct {
	typ   reflect.Type
	elem  reflect.Type // what typ points to, else nil
	shape *shape
	spare sync.Pool // of pointers to variables of typ, which are zero
}

func (c *generated) check() error { return nil }

// deterministic returns an error if the type has a map.
func (c *generated) deterministic() error {
	if c.shape.hasMap(map[*shape]bool{}) {
		return misconfigured(errMapsOf, c.typ)
	}
	return nil
}

// encode calls MarshalMsg, and scans what it appended.
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

// append appends the variable at p, and decodes that into the one at again, which is zero.
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
	// The methods may be written by hand: what they made is looked at before it
	// is stored.
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

// decodeInto scans src, and calls UnmarshalMsg only if it is sound.
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
