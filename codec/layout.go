package codec

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
)

// layOut gives s the fields that msgpack stores of the struct t. It does what
// msgpack's own unexported getFields does, and refuses what that gets wrong:
// two fields of one name, of which one is lost, a struct that embeds itself, on
// which it overflows the stack, and embedded fields that it cannot set.
func (b *shapes) layOut(s *shape, t reflect.Type, path string) *failure {
	if slices.Contains(b.embedding, t) {
		return misconfigured("%s: %s embeds itself", path, t)
	}
	b.embedding = append(b.embedding, t)
	defer func() { b.embedding = b.embedding[:len(b.embedding)-1] }()

	// Names count once, whether they are those of fields, of aliases or of
	// embedded structs: msgpack keeps the last and logs that it dropped one.
	s.byName = make(map[string]*shape, t.NumField())
	for f := range t.Fields() {
		at := path + "." + f.Name
		// As in getFields, "-" goes first, and an embedded struct of an
		// unexported type counts, for the sake of its exported fields.
		tag, ok := parseTag(f.Tag.Get("msgpack"))
		switch {
		case !ok:
			return misconfigured("%s: the msgpack tag has quotes or brackets, which are not supported", at)
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
		if !f.IsExported() { // reflect can read it and not set it
			return misconfigured("%s: an embedded field of an unexported type cannot be decoded", at)
		}
		if tag.has("intern") {
			// Any string, and any field's name, may then be a number that only
			// the decoder can resolve, so no name can be trusted to be none.
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
			s.byName[n] = fs
			if i == 0 {
				s.fields = append(s.fields, field{n, f.Index, fs})
			}
		}
	}
	return nil
}

// inline adds to s the fields of its embedded struct f, if msgpack would: if f is
// a struct or a pointer to one, does not encode itself, and has no field of a name
// that s has already. With the option inline (always) it does in any case, and
// leaves out the fields that s has.
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
	// Laid out on its own and not by of, which would refuse it for having no
	// fields, as an embedded sync.Mutex has not.
	es := &shape{kind: shapeStruct, size: int64(t.Size())}
	if err := b.layOut(es, t, path); err != nil {
		return false, err
	}
	shadowed := func(e field) bool { return s.byName[e.name] != nil }
	if !always && slices.ContainsFunc(es.fields, shadowed) {
		return false, nil
	}
	if f.Type.Kind() == reflect.Pointer && !f.IsExported() {
		return false, misconfigured("%s: an embedded pointer to an unexported type cannot be decoded", path)
	}
	for _, e := range es.fields {
		if !shadowed(e) {
			s.byName[e.name] = e.shape
			s.fields = append(s.fields, field{e.name, slices.Concat(f.Index, e.index), e.shape})
		}
	}
	// Under its own name the struct is decoded too, though never encoded. Who
	// forges bytes may use it, so the integers in there are compared as well;
	// and a field of that name would not be decoded.
	if s.byName[name] != nil {
		return false, misconfigured("%s: a field is stored as %q too", path, name)
	}
	for p := f.Type; p.Kind() == reflect.Pointer; p = p.Elem() {
		es = &shape{kind: shapePointer, size: int64(p.Size()), elem: es}
	}
	s.byName[name] = es
	return true, nil
}

// fieldTag is a msgpack struct tag: `msgpack:"name,option,alias:othername"`. The
// parser that msgpack uses, tagparser, takes quotes and brackets too. Nobody
// writes them, and to be wrong about a name is to check the wrong field; so ours
// refuses them.
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
			tag.aliases = []string{value} // the last one counts
		case i == 0 && !hasValue:
			tag.name = key
		default:
			tag.options = append(tag.options, key)
		}
	}
	return tag, true
}
