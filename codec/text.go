package codec

import (
	"encoding"
	"reflect"
)

// Text returns a codec that stores a V as the text its methods make of it:
// AppendText of [encoding.TextAppender] if there is one, else MarshalText, and
// UnmarshalText. V may be the type with these methods or a pointer to it; a nil
// pointer is an [ErrEncode], and so is a text that UnmarshalText does not take.
func Text[V any]() Codec[V] {
	t := reflect.TypeFor[V]()
	appender := reflect.TypeFor[encoding.TextAppender]()
	marshaler := reflect.TypeFor[encoding.TextMarshaler]()
	unmarshaler := reflect.TypeFor[encoding.TextUnmarshaler]()

	// The methods of *V include those of V. Those of a V that is a pointer are
	// not in *V.
	c := new(textCodec[V])
	on := reflect.PointerTo(t)
	if t.Kind() == reflect.Pointer {
		c.elem, on = t.Elem(), t
	}
	c.appends = on.Implements(appender)
	switch {
	case !c.appends && !on.Implements(marshaler):
		return invalid[V]{misconfigured("Text: %s has no method AppendText or MarshalText", t)}
	case !on.Implements(unmarshaler):
		return invalid[V]{misconfigured("Text: %s has no method UnmarshalText", t)}
	}
	return c
}

// textCodec serves a V with the methods on V or *V, and a V that is itself the
// pointer.
type textCodec[V any] struct {
	elem    reflect.Type // what V points to, else nil
	appends bool         // V has AppendText
	slots   slots[V]
}

// Append calls AppendText, or MarshalText if there is none. A nil pointer is an
// error.
func (c *textCodec[V]) Append(dst []byte, v V) (out []byte, err error) {
	defer catchAppend("a method of the value", dst, &out, &err)
	p := c.slots.get(v)
	defer c.slots.put(p)
	var with any = p
	if c.elem != nil {
		if reflect.ValueOf(p).Elem().IsNil() {
			return dst, errNilText
		}
		with = *p
	}
	if c.appends {
		out, err = with.(encoding.TextAppender).AppendText(dst)
	} else {
		var text []byte
		text, err = with.(encoding.TextMarshaler).MarshalText()
		out = append(dst, text...)
	}
	if err != nil {
		return dst, cannotEncode("text: "+describe(err), err)
	}
	if err := c.Decode(out[len(dst):], new(V)); err != nil {
		return dst, unreadable(err)
	}
	return out, nil
}

// Decode calls UnmarshalText on a new value.
func (c *textCodec[V]) Decode(src []byte, v *V) (err error) {
	defer catchDecode("UnmarshalText", v, &err)
	*v = *new(V)
	var into any = v
	if c.elem != nil {
		p := reflect.New(c.elem)
		reflect.ValueOf(v).Elem().Set(p)
		into = p.Interface()
	}
	if err := into.(encoding.TextUnmarshaler).UnmarshalText(src); err != nil {
		return badFormat("text: "+describe(err), err)
	}
	return nil
}

var errNilText = cannotEncode("text: nil pointer", nil)
