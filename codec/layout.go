package codec

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
)

// layOut gives s the fields that msgpack stores for the struct t. It mirrors
// msgpack's unexported getFields, and refuses the structs that getFields gets
// wrong:
//
//   - two fields of one name, of which one is lost;
//   - a struct that embeds itself, on which getFields overflows the stack;
//   - embedded fields that it cannot set.
func (b *shapes) layOut(s *shape, t reflect.Type, path string) *failure {
	if slices.Contains(b.embedding, t) {
		return misconfigured("%s: %s embeds itself", path, t)
	}
	b.embedding = append(b.embedding, t)
	defer func() { b.embedding = b.embedding[:len(b.embedding)-1] }()

	// The names of fields, aliases and embedded structs share one namespace:
	// msgpack keeps the last and logs that it dropped one.
	s.byName = make(map[string]*field, t.NumField())
	omitAll := false
	for f := range t.Fields() {
		at := path + "." + f.Name
		// As in getFields, "-" is checked first, and an embedded struct of an
		// unexported type counts for its exported fields.
		tag, ok := parseTag(f.Tag.Get("msgpack"))
		if !ok {
			return misconfigured("%s: the msgpack tag has quotes or brackets, which are not supported", at)
		}
		if f.Name == "_msgpack" && tag.name != "-" { // its options apply to the whole struct
			s.array = tag.has("as_array") || tag.has("asArray")
			omitAll = omitAll || tag.has("omitempty")
		}
		switch {
		case tag.name == "-", !f.IsExported() && !f.Anonymous:
			continue
		}
		name := cmp.Or(tag.name, f.Name)
		if f.Anonymous && !tag.has("noinline") {
			inlined, err := b.inline(s, f, name, at, tag.has("inline"))
			if err != nil {
				return err
			}
			if inlined {
				continue
			}
		}
		if !f.IsExported() { // reflect can read it but not set it
			return misconfigured("%s: an embedded field of an unexported type cannot be decoded", at)
		}
		if tag.has("intern") {
			// With interning, any string and any field name may be a number
			// that only the decoder can resolve. So no name could be trusted to
			// be unknown.
			return misconfigured("%s: interned strings are not supported", at)
		}
		fs, err := b.of(f.Type, at)
		if err != nil {
			return err
		}
		for i, n := range append([]string{name}, tag.aliases...) {
			if s.byName[n] != nil {
				return misconfigured("%s: another field is stored as %q too", at, n)
			}
			part := field{name: n, index: f.Index, shape: fs, omit: omitAll || tag.has("omitempty")}
			s.byName[n] = &part
			if i == 0 {
				s.fields = append(s.fields, part)
			}
		}
	}
	if s.array && slices.ContainsFunc(s.fields, func(f field) bool { return f.cost > 0 }) {
		return misconfigured("%s: %s is stored as an array, where an embedded pointer that is nil would come back as one that is not", path, t)
	}
	return nil
}

// inline adds the fields of the embedded struct f to s, if msgpack does.
// msgpack does if f is a struct or a pointer to one, does not encode itself,
// and has no field name that s has already. If always is true (the option
// inline), msgpack inlines in any case and loses the fields that s has. That is
// refused.
func (b *shapes) inline(s *shape, f reflect.StructField, name, path string, always bool) (bool, *failure) {
	t := f.Type
	for t.Kind() == reflect.Pointer && !always {
		t = t.Elem()
	}
	switch {
	case t.Kind() != reflect.Struct && always:
		return false, misconfigured("%s: %s cannot be inlined", path, t)
	case t.Kind() != reflect.Struct, t == timeType:
		return false, nil
	}
	if own, err := encodesItself(t, path); !always && (own || err != nil) {
		return false, err
	}
	// This calls layOut directly: the method of would refuse a struct without
	// fields, such as an embedded sync.Mutex.
	es := &shape{kind: shapeStruct, size: int64(t.Size())}
	if err := b.layOut(es, t, path); err != nil {
		return false, err
	}
	for _, e := range es.fields {
		if s.byName[e.name] != nil {
			if always {
				return false, misconfigured("%s: the field that is stored as %q would be lost, since another one is too", path, e.name)
			}
			return false, nil
		}
	}
	if f.Type.Kind() == reflect.Pointer && !f.IsExported() {
		return false, misconfigured("%s: an embedded pointer to an unexported type cannot be decoded", path)
	}
	cost := int64(0)
	if f.Type.Kind() == reflect.Pointer {
		cost = rounded(es.size)
		// The first field tells a pointer to an empty struct from nil. It must
		// not be behind another pointer, which may be nil itself.
		if !slices.ContainsFunc(es.fields, func(e field) bool { return e.cost == 0 }) {
			return false, misconfigured("%s: an embedded pointer to %s, which has no field of its own to store, would come back as nil", path, t)
		}
	}
	for _, e := range es.fields {
		e.index, e.cost = slices.Concat(f.Index, e.index), e.cost+cost
		s.byName[e.name] = &e
		s.fields = append(s.fields, e)
	}
	// msgpack also decodes the struct under its own name, but never encodes it
	// so. Forged bytes may use that name, so its integers are compared as well.
	// A field with that name would not be decoded.
	if s.byName[name] != nil {
		return false, misconfigured("%s: a field is stored as %q too", path, name)
	}
	for p := f.Type; p.Kind() == reflect.Pointer; p = p.Elem() {
		es = &shape{kind: shapePointer, size: int64(p.Size()), elem: es}
	}
	s.byName[name] = &field{shape: es}
	return true, nil
}

// fieldTag is a msgpack struct tag: `msgpack:"name,option,alias:othername"`.
// msgpack's parser, tagparser, accepts quotes and brackets too. They are not
// used in practice, and a misread name means that the wrong field is checked.
// So this parser refuses them.
type fieldTag struct {
	name    string
	options []string
	aliases []string
}

func (t fieldTag) has(option string) bool { return slices.Contains(t.options, option) }

func parseTag(s string) (tag fieldTag, ok bool) {
	if strings.ContainsAny(s, `'()\`) {
		return tag, false
	}
	for i, part := range strings.Split(s, ",") {
		key, value, hasValue := strings.Cut(part, ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case hasValue && key == "alias":
			tag.aliases = []string{value} // the last one wins
		case i == 0 && !hasValue:
			tag.name = key
		default:
			tag.options = append(tag.options, key)
		}
	}
	return tag, true
}
