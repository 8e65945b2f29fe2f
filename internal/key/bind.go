package key

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

var (
	timeType        = reflect.TypeFor[time.Time]()
	textAppender    = reflect.TypeFor[encoding.TextAppender]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// bind assigns to each part its value in a key of type t, and rejects types
// that have no rendering.
func bind(t reflect.Type, parts []part) error {
	if t.Kind() == reflect.Struct && !isText(t) {
		return bindFields(t, parts)
	}
	class, err := classOf(t)
	switch {
	case err != nil:
		return err
	case len(parts) == 0:
		return fmt.Errorf("%v is not in the template, so all keys would collide: add a placeholder, such as {id}", t)
	case len(parts) > 1:
		return fmt.Errorf("%v is one value, but the template has %d placeholders: keep one, or make the key a struct", t, len(parts))
	}
	parts[0].value = value{class, whole, t.String(), sizeOf(t, class)}
	return nil
}

// bindFields is bind for a struct without a rendering of its own. Every field
// must be used at least once. There is no tag to leave a field out: a field
// that is not part of the key must not be part of its type either.
func bindFields(t reflect.Type, parts []part) error {
	fields, err := fieldsOf(t)
	if err != nil {
		return err
	}
	used := make([]bool, len(fields))
	for i := range parts {
		p := &parts[i]
		found := -1
		for j := range fields {
			switch {
			case !fields[j].is(p.name):
			case found >= 0:
				return fmt.Errorf("{%s} is both %s and field %s: give one of them a tag, such as `cachex:\"name\"`",
					p.name, fields[found].value.what, fields[j].goName)
			default:
				found = j
			}
		}
		if found < 0 {
			return fmt.Errorf("%v has no field %s: it has %s", t, p.name, placeholders(fields))
		}
		p.value = fields[found].value
		p.first = slices.IndexFunc(parts, func(q part) bool { return q.value.field == p.value.field })
		used[found] = true
	}
	for j, f := range fields {
		if !used[j] {
			return fmt.Errorf("%s is not in the template, so two keys would collide: add {%s}", f.value.what, f.name)
		}
	}
	return nil
}

// field is a field of a struct K.
type field struct {
	value  value
	name   string // its placeholder: the tag, otherwise the Go name in snake case
	goName string
	tagged bool
}

// is reports whether a placeholder of that name means the field.
func (f *field) is(name string) bool {
	return strings.EqualFold(name, f.name) || !f.tagged && strings.EqualFold(name, f.goName)
}

// fieldsOf returns the fields of the struct t, except blank ones: Go does not
// compare them, so they do not distinguish keys.
func fieldsOf(t reflect.Type) ([]field, error) {
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		if sf.Name == "_" {
			continue
		}
		what := fmt.Sprintf("field %s of %v", sf.Name, t)
		if !sf.IsExported() {
			return nil, fmt.Errorf("%s is unexported, so two keys could differ only in what is not rendered: export it, or use Spec.KeyFunc", what)
		}
		name, tagged := sf.Tag.Lookup("cachex")
		switch {
		case !tagged:
			name = snake(sf.Name)
		case !isName(name):
			return nil, fmt.Errorf("%s has the tag cachex:%q: it is the name of a placeholder, only letters, digits and underscores", what, name)
		}
		class, err := classOf(sf.Type)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		fields = append(fields, field{value{class, i, what, sizeOf(sf.Type, class)}, name, sf.Name, tagged})
	}
	return fields, nil
}

// placeholders lists the possible placeholders for a struct of these fields.
func placeholders(fields []field) string {
	if len(fields) == 0 {
		return "none, so its template has no placeholder"
	}
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = "{" + f.name + "}"
	}
	return strings.Join(names, ", ")
}

// classOf returns the class of values of type t. An error begins with the type.
//
// The rejected types could all be rendered somehow. But the rendering would not
// be equal exactly for equal keys, and the same in every process of the fleet.
// For these types the user must define equality in a function.
func classOf(t reflect.Type) (class, error) {
	// These come before the methods, which would not distinguish the values of
	// these types.
	why := ""
	switch t.Kind() {
	case reflect.Interface:
		why = "values of different types may render alike"
	case reflect.Pointer, reflect.Chan, reflect.UnsafePointer:
		why = "it is compared by its address"
	case reflect.Struct:
		if t == timeType {
			why = "one instant has many values, by zone and monotonic clock"
		}
	}
	if why != "" {
		return 0, refuse(t, why)
	}
	if isText(t) {
		if err := checkPromoted(t); err != nil {
			return 0, err
		}
		if t.Implements(textAppender) {
			return appended, nil
		}
		return marshaled, nil
	}
	switch t.Kind() {
	case reflect.String:
		return escaped, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return signed, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return unsigned, nil
	case reflect.Bool:
		return boolean, nil
	case reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return hex, nil
		}
		return 0, refuse(t, "of arrays only those of bytes can")
	case reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return 0, refuse(t, "-0 equals 0, and NaN not even itself")
	}
	// Only structs remain: Go does not compare maps, slices and functions.
	return 0, refuse(t, "a struct inside a struct needs the method MarshalText, of the value and not of its pointer")
}

// sizeOf returns the size of a value of type t and of its class.
func sizeOf(t reflect.Type, c class) int {
	switch c {
	case signed, unsigned:
		return t.Bits()
	case hex:
		return t.Len()
	}
	return 0
}

func refuse(t reflect.Type, why string) error {
	return fmt.Errorf("%v cannot be in a key: %s: use Spec.KeyFunc", t, why)
}

// isText reports whether values of type t render themselves. A method of the
// pointer does not count, like in encoding/json for a value without an address:
// whether it is called would depend on the origin of the key.
func isText(t reflect.Type) bool { return t.Implements(textAppender) || t.Implements(textMarshaler) }

// checkPromoted rejects a struct whose MarshalText may come from an embedded
// field. Such a method does not know the other fields, so keys that differ in
// them would collide. A struct that embeds a text type and has its own method
// is rejected too, since reflection cannot tell the two apart.
func checkPromoted(t reflect.Type) error {
	if t.Kind() != reflect.Struct {
		return nil
	}
	var embedded reflect.Type
	others := -1
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Name != "_" {
			others++
		}
		if f.Anonymous && isText(f.Type) {
			embedded = f.Type
		}
	}
	if embedded == nil {
		return nil
	}
	if _, err := classOf(embedded); err != nil {
		return fmt.Errorf("in %v, embedded %w", t, err)
	}
	if others > 0 {
		return fmt.Errorf("%v embeds %v, whose text may leave out the other fields: give that field a name, or use Spec.KeyFunc", t, embedded)
	}
	return nil
}
