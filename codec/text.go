package codec

import (
	"encoding"
	"reflect"
)

// Text returns a codec that stores a V as text, with the methods of V. It calls
// AppendText of [encoding.TextAppender] if V has it, else MarshalText, and
// UnmarshalText to decode. V may be the type with these methods or a pointer to
// it. A nil pointer is an [ErrEncode], and so is a text that UnmarshalText
// refuses.
func Text[V any]() Codec[V] { return &typed[V]{as: textOf(reflect.TypeFor[V]())} }

// textOf is Text with the type as a value.
func textOf(t reflect.Type) anyCodec {
	appender := reflect.TypeFor[encoding.TextAppender]()
	marshaler := reflect.TypeFor[encoding.TextMarshaler]()
	unmarshaler := reflect.TypeFor[encoding.TextUnmarshaler]()

	// *V also has the methods of V. If V is a pointer, *V does not have its
	// methods.
	c := &textCodec{typ: t}
	on := reflect.PointerTo(t)
	if t.Kind() == reflect.Pointer {
		c.elem, on = t.Elem(), t
	}
	c.appends = on.Implements(appender)
	switch {
	case !c.appends && !on.Implements(marshaler):
		return invalid{misconfigured("Text: %s has no method AppendText or MarshalText", t)}
	case !on.Implements(unmarshaler):
		return invalid{misconfigured("Text: %s has no method UnmarshalText", t)}
	}
	return c
}

// textCodec serves a type with the methods on it or on a pointer to it, and a
// pointer type with the methods.
type textCodec struct {
	sure
	typ     reflect.Type
	elem    reflect.Type // element type if typ is a pointer, else nil
	appends bool         // the type has AppendText
}

// encode calls AppendText, or MarshalText if the type has no AppendText. A nil
// pointer is an error.
func (c *textCodec) encode(dst []byte, p any) (out []byte, err error) {
	defer catchAppend("a method of the value", dst, &out, &err)
	with := p
	if c.elem != nil {
		v := reflect.ValueOf(p).Elem()
		if v.IsNil() {
			return dst, errNilText
		}
		with = v.Interface()
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
	if err := c.decodeInto(out[len(dst):], reflect.New(c.typ).Interface()); err != nil {
		return dst, unreadable(err)
	}
	return out, nil
}

// decodeInto calls UnmarshalText on a new value.
func (c *textCodec) decodeInto(src []byte, p any) (err error) {
	defer catchCall("UnmarshalText", &err)
	into := p
	if c.elem != nil {
		v := reflect.New(c.elem)
		reflect.ValueOf(p).Elem().Set(v)
		into = v.Interface()
	}
	if err := into.(encoding.TextUnmarshaler).UnmarshalText(src); err != nil {
		return badFormat("text: "+describe(err), err)
	}
	return nil
}

var errNilText = cannotEncode("text: nil pointer", nil)
