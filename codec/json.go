package codec

import (
	"bytes"
	"encoding/json"
	"reflect"
	"sync"
)

// JSON returns a codec that stores values as encoding/json does, without HTML
// escapes. It refuses bytes after the value. It refuses null unless V can be
// nil or has methods to unmarshal it.
//
// It is readable in redis-cli and slower than [MessagePack]. It has the limits
// of the format: invalid UTF-8 in strings is replaced, and an any decodes to
// float64, string, bool, nil, []any or map[string]any.
//
// encoding/json bounds nesting to 10000. As with [MessagePack], Decode refuses
// bytes that would make it allocate more than 256 bytes for each of theirs, and
// more than 4 MB. The error wraps ErrTooLarge. An element of a slice costs the
// size of its type, however few bytes it takes in JSON. Append refuses such
// values too. The memory that methods of V's parts allocate is not bounded.
func JSON[V any]() Codec[V] { return &typed[V]{as: jsonOf(reflect.TypeFor[V]())} }

// jsonOf is JSON with the type as a value.
func jsonOf(t reflect.Type) anyCodec {
	if err := checkJSON(t, t.String(), map[reflect.Type]bool{}); err != nil {
		return invalid{err}
	}
	return &jsonCodec{typ: t, plan: newJSONPlan(t), nullable: nilable(t) || hasOwnJSON(t), verify: holdsOwnJSON(t, map[reflect.Type]bool{})}
}

type jsonCodec struct {
	sure
	typ      reflect.Type
	plan     *jsonPlan
	nullable bool // null at the top level is a value
	verify   bool // a part has its own encoder, which its decoder may refuse
	encoders sync.Pool
}

// jsonEncoder holds the state of one encode.
type jsonEncoder struct {
	enc *json.Encoder
	buf buffer
}

// encode appends the variable as encoding/json writes it, without HTML escapes.
func (c *jsonCodec) encode(dst []byte, p any) (out []byte, err error) {
	defer catchAppend("a method of the value", dst, &out, &err)
	e, ok := c.encoders.Get().(*jsonEncoder)
	if !ok {
		e = new(jsonEncoder)
		e.enc = json.NewEncoder(&e.buf)
		e.enc.SetEscapeHTML(false)
	}
	e.buf.b = dst
	if err := e.enc.Encode(p); err != nil {
		// The encoder is not reused: it remembers some errors.
		return dst, cannotEncode(describe(err), err)
	}
	out = e.buf.b[:len(e.buf.b)-1] // drops the newline that Encode adds
	e.buf.b = nil
	c.encoders.Put(e)
	if err := c.plan.check(out[len(dst):]); err != nil {
		return dst, unreadable(err)
	}
	if c.verify {
		if err := c.decodeInto(out[len(dst):], reflect.New(c.typ).Interface()); err != nil {
			return dst, unreadable(err)
		}
	}
	return out, nil
}

// decodeInto reads src with encoding/json. It refuses null if the type has no
// nil.
func (c *jsonCodec) decodeInto(src []byte, p any) (err error) {
	defer catchCall("a method of the value", &err)
	// Unmarshal accepts null for every type, and leaves the zero value.
	if !c.nullable && len(src) >= len("null") && string(bytes.TrimSpace(src)) == "null" {
		return errNull
	}
	if err := c.plan.check(src); err != nil {
		return err
	}
	if err := json.Unmarshal(src, p); err != nil {
		return badFormat(describe(err), err)
	}
	return nil
}

var errNull = badFormat("null, and the type has no nil", nil)

// nilable reports whether t has a nil that encoders store as such.
func nilable(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
		return true
	}
	return false
}

func hasOwnJSON(t reflect.Type) bool {
	return hasMethods(t, reflect.TypeFor[json.Unmarshaler]()) || hasMethods(t, textUnmarshalerType)
}

// holdsOwnJSON reports whether t or a part of it, other than a time.Time, has
// its own JSON methods.
func holdsOwnJSON(t reflect.Type, seen map[reflect.Type]bool) bool {
	if seen[t] || t == timeType {
		return false
	}
	seen[t] = true
	if hasOwnJSON(t) {
		return true
	}
	switch t.Kind() {
	case reflect.Map:
		return holdsOwnJSON(t.Key(), seen) || holdsOwnJSON(t.Elem(), seen)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return holdsOwnJSON(t.Elem(), seen)
	case reflect.Struct:
		for f := range t.Fields() {
			if holdsOwnJSON(f.Type, seen) {
				return true
			}
		}
	}
	return false
}

// checkJSON looks for a part of t that encoding/json cannot both encode and
// decode. path is the place of t. It does not inspect types with their own
// methods. It does not check for colliding names, since Go programmers know the
// rules of encoding/json for them.
func checkJSON(t reflect.Type, path string, seen map[reflect.Type]bool) *failure {
	if promotes(t) && hasOwnJSON(t) {
		return misconfigured("%s: %s has the methods of an embedded field, by which its other fields are not stored", path, t)
	}
	if seen[t] || hasOwnJSON(t) {
		return nil
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		return unsupported(path, t)
	case reflect.Interface:
		if t.NumMethod() > 0 {
			return unsupported(path, t)
		}
	case reflect.Map:
		switch k := t.Key(); {
		case hasMethods(k, textUnmarshalerType):
		case k.Kind() == reflect.String, reflect.Int <= k.Kind() && k.Kind() <= reflect.Uintptr:
		default:
			return unsupported(path+" key", k)
		}
		return checkJSON(t.Elem(), path+"[]", seen)
	case reflect.Pointer:
		return checkJSON(t.Elem(), path, seen)
	case reflect.Slice, reflect.Array:
		return checkJSON(t.Elem(), path+"[]", seen)
	case reflect.Struct:
		visible := 0
		for f := range t.Fields() {
			if f.Tag.Get("json") == "-" || !f.IsExported() && !(f.Anonymous && f.Type.Kind() == reflect.Struct) {
				continue
			}
			visible++
			if err := checkJSON(f.Type, path+"."+f.Name, seen); err != nil {
				return err
			}
		}
		if visible == 0 && t.NumField() > 0 {
			return misconfigured("%s: %s has no exported field to store", path, t)
		}
	}
	return nil
}
