package codec

import "reflect"

// msgpMarshaler and msgpUnmarshaler are the methods that tinylib/msgp generates.
// They are known by their form, so that this module need not depend on it.
type (
	msgpMarshaler   interface{ MarshalMsg([]byte) ([]byte, error) }
	msgpUnmarshaler interface {
		UnmarshalMsg([]byte) ([]byte, error)
	}
)

// generatedFor returns the codec of a V that has those methods.
//
// What they read is scanned first as for [MessagePack], so nothing is deeper,
// longer or shorter than it says. The methods see to integers themselves; a
// slice they make at once, at the size of its elements for each byte at most.
func generatedFor[V any]() (Codec[V], bool) {
	t := reflect.TypeFor[V]()
	c := new(generatedCodec[V])
	on := reflect.PointerTo(t)
	if t.Kind() == reflect.Pointer {
		c.untyped.elem, on = t.Elem(), t
	}
	if !on.Implements(reflect.TypeFor[msgpMarshaler]()) || !on.Implements(reflect.TypeFor[msgpUnmarshaler]()) {
		return nil, false
	}
	s, _, err := newShape(t, true)
	if err != nil {
		return invalid[V]{err}, true
	}
	c.untyped.shape = s
	return c, true
}

// generatedCodec serves a V with the methods on V or *V, and a V that is itself
// the pointer. A nil of the latter is MessagePack's nil, for which the methods
// have no form of their own.
type generatedCodec[V any] struct {
	untyped generated
	slots   slots[V]
}

// Append calls MarshalMsg, and scans what it appended.
func (c *generatedCodec[V]) Append(dst []byte, v V) ([]byte, error) {
	p, again := c.slots.get(v), c.slots.get(*new(V))
	defer c.slots.put(p)
	defer c.slots.put(again)
	return c.untyped.append(dst, p, again)
}

// Decode scans src, and calls UnmarshalMsg only if it is sound.
func (c *generatedCodec[V]) Decode(src []byte, v *V) error {
	*v = *new(V)
	err := c.untyped.decode(src, v)
	if err != nil {
		*v = *new(V)
	}
	return err
}

// generated is a generatedCodec of variables that it knows as pointers in an any. It is
// compiled once for all types.
type generated struct {
	elem  reflect.Type // what V points to, else nil
	shape *shape
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
	if err := c.decode(out[len(dst):], again); err != nil {
		return dst, unreadable(err)
	}
	return out, nil
}

var errNotAppended = cannotEncode("MarshalMsg did not append", nil)

// decode reads src into the variable at p, which is zero. After an error, the variable
// may be anything.
func (c *generated) decode(src []byte, p any) (err error) {
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
