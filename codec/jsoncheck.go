package codec

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// jsonPlan holds the costs of decoding a type with encoding/json, known before
// any bytes are seen. It exists for the elements of slices: "{}," is three
// bytes, whatever the size of the struct that it makes.
type jsonPlan struct {
	top    *jsonShape
	costly int64 // most bytes that decoding one JSON value may allocate
}

// jsonShape is a type as encoding/json decodes it.
type jsonShape struct {
	kind   reflect.Kind // Invalid: allocates nothing beyond its bytes
	size   int64
	key    *jsonShape            // of a map
	elem   *jsonShape            // of a pointer, slice, array, or map
	fields map[string]*jsonField // of a struct
	folded map[string]*jsonField // of a struct, by case-folded name
}

// jsonField is a field of a struct, or of a struct embedded in it.
type jsonField struct {
	shape  *jsonShape
	tagged bool  // the name is from the tag
	depth  int   // number of structs it is embedded in
	within int   // index of the outermost field that holds it
	cost   int64 // of the embedded pointers on the way
}

// grown is how many times the size of an element is allocated in total.
// encoding/json appends, and the capacity of a full long slice grows by a
// quarter each time.
const grown = 5

var errJSONTooLarge = badFormat("JSON: decoding would take too much memory", ErrTooLarge)

// newJSONPlan returns the plan for t, which checkJSON has admitted.
func newJSONPlan(t reflect.Type) *jsonPlan {
	seen := make(map[reflect.Type]*jsonShape)
	p := &jsonPlan{top: newJSONShape(t, seen)}
	// As in MessagePack, the bound adds up a pointer's target, a map and an
	// element.
	var slot, base, pointers int64
	for _, s := range seen {
		switch s.kind {
		case reflect.Pointer:
			pointers += rounded(s.elem.size)
		case reflect.Slice:
			slot = max(slot, s.each())
		case reflect.Map:
			base = max(base, s.base())
			slot = max(slot, s.each())
		case reflect.Struct:
			for _, f := range s.fields {
				pointers += f.cost
			}
		}
	}
	p.costly = slot + base + pointers
	return p
}

func newJSONShape(t reflect.Type, seen map[reflect.Type]*jsonShape) *jsonShape {
	if s := seen[t]; s != nil {
		return s
	}
	s := &jsonShape{size: int64(t.Size())}
	seen[t] = s
	if t.Kind() != reflect.Pointer && hasOwnJSON(t) {
		return s // its own methods allocate
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		s.kind, s.elem = t.Kind(), newJSONShape(t.Elem(), seen)
	case reflect.Map:
		s.kind, s.key, s.elem = t.Kind(), newJSONShape(t.Key(), seen), newJSONShape(t.Elem(), seen)
	case reflect.Struct:
		s.kind, s.fields, s.folded = t.Kind(), make(map[string]*jsonField), make(map[string]*jsonField)
		s.addFields(t, jsonField{}, nil, seen)
	}
	return s
}

// addFields adds the fields of t, embedded as at describes. If several fields
// have one name, encoding/json takes the least deep one, then the tagged one,
// and otherwise drops them all. In the last case one field stands for all,
// which overestimates the cost.
func (s *jsonShape) addFields(t reflect.Type, at jsonField, embedding []reflect.Type, seen map[reflect.Type]*jsonShape) {
	if slices.Contains(embedding, t) {
		return
	}
	for i := range t.NumField() {
		f, in := t.Field(i), at
		if len(embedding) == 0 {
			in.within = i
		}
		tag := f.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		embedded := f.Type
		if f.Anonymous && embedded.Kind() == reflect.Pointer {
			embedded = embedded.Elem()
		}
		switch {
		case tag == "-":
		case f.Anonymous && name == "" && embedded.Kind() == reflect.Struct:
			if in.depth++; embedded != f.Type {
				in.cost += rounded(int64(embedded.Size()))
			}
			s.addFields(embedded, in, append(embedding, t), seen)
		case f.IsExported():
			in.shape, in.tagged = newJSONShape(f.Type, seen), name != ""
			if name == "" {
				name = f.Name
			}
			s.addField(name, &in)
		}
	}
}

func (s *jsonShape) addField(name string, f *jsonField) {
	if was := s.fields[name]; was == nil || f.depth < was.depth || f.depth == was.depth && f.tagged && !was.tagged {
		s.fields[name] = f
	}
	if s.folded[fold(name)] == nil {
		s.folded[fold(name)] = f
	}
}

// fold returns name in one case. encoding/json matches a name so if it finds no
// exact match.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				return next
			}
			r = next
		}
	}, name)
}

// base returns the cost of a slice or map without elements. each returns the
// cost of one element.
func (s *jsonShape) base() int64 {
	if s.kind == reflect.Map {
		return mapCost(&shape{key: &shape{size: s.key.size}, elem: &shape{size: s.elem.size}}, 0)
	}
	return 0
}

func (s *jsonShape) each() int64 {
	if s.kind == reflect.Map {
		one := &shape{key: &shape{size: s.key.size}, elem: &shape{size: s.elem.size}}
		return mapCost(one, 1) - mapCost(one, 0)
	}
	return grown*s.elem.size + 1
}

// check refuses bytes that would make encoding/json allocate more than
// allocLimit permits. It leaves invalid JSON to encoding/json.
func (p *jsonPlan) check(src []byte) error {
	limit := allocLimit(src)
	if p.costly*(int64(len(src))/2+1) <= limit { // a value and its separator
		return nil
	}
	values := int64(1 + bytes.Count(src, comma) + bytes.Count(src, bracket) + bytes.Count(src, brace))
	if values <= limit/p.costly {
		return nil
	}
	w := jsonWalk{src: src, limit: limit}
	w.value(p.top, 0)
	if w.limit < 0 {
		return errJSONTooLarge
	}
	return nil
}

var comma, bracket, brace = []byte(","), []byte("["), []byte("{")

// jsonWalk walks bytes along a shape.
type jsonWalk struct {
	src   []byte
	limit int64 // bytes that may still be allocated
	depth int
}

// deepest is the depth limit of encoding/json.
const deepest = 10_000

// value walks the value at i and returns its end. It returns len(src) if the
// bytes are invalid JSON or the limit is reached.
func (w *jsonWalk) value(s *jsonShape, i int) int {
	if i = w.space(i); i >= len(w.src) || w.limit < 0 {
		return len(w.src)
	}
	for first := w.src[i]; s.kind == reflect.Pointer && first != 'n'; s = s.elem { // null allocates nothing
		w.limit -= rounded(s.elem.size)
	}
	switch first := w.src[i]; {
	case w.depth == deepest:
		return len(w.src)
	case first == '[' && (s.kind == reflect.Slice || s.kind == reflect.Array):
		return w.array(s, i+1)
	case first == '{' && (s.kind == reflect.Map || s.kind == reflect.Struct):
		return w.object(s, i+1)
	}
	return w.skip(i)
}

// array walks the elements of an array, starting at i.
func (w *jsonWalk) array(s *jsonShape, i int) int {
	w.depth++
	defer func() { w.depth-- }()
	if i = w.space(i); i < len(w.src) && w.src[i] == ']' {
		return i + 1
	}
	for i < len(w.src) {
		if s.kind == reflect.Slice {
			w.limit -= s.each()
		}
		i = w.space(w.value(s.elem, i))
		if i < len(w.src) && w.src[i] == ']' {
			return i + 1
		}
		if i >= len(w.src) || w.src[i] != ',' {
			break
		}
		i++
	}
	return len(w.src)
}

// object walks the members of an object, starting at i.
func (w *jsonWalk) object(s *jsonShape, i int) int {
	w.depth++
	defer func() { w.depth-- }()
	if s.kind == reflect.Map {
		w.limit -= s.base()
	}
	within := -1
	if i = w.space(i); i < len(w.src) && w.src[i] == '}' {
		return i + 1
	}
	for i < len(w.src) && w.src[i] == '"' {
		end := w.text(i)
		name := w.src[i:end]
		if i = w.space(end); i >= len(w.src) || w.src[i] != ':' {
			break
		}
		elem := leafJSON
		switch f := s.field(name); {
		case s.kind == reflect.Map:
			w.limit -= s.each()
			elem = s.elem
		case f != nil:
			if f.cost > 0 && f.within != within { // once for all fields behind one pointer
				within = f.within
				w.limit -= f.cost
			}
			elem = f.shape
		}
		i = w.space(w.value(elem, i+1))
		if i < len(w.src) && w.src[i] == '}' {
			return i + 1
		}
		if i >= len(w.src) || w.src[i] != ',' {
			break
		}
		i = w.space(i + 1)
	}
	return len(w.src)
}

var leafJSON = new(jsonShape)

// field returns the field with a quoted name, or nil.
func (s *jsonShape) field(quoted []byte) *jsonField {
	if s.kind != reflect.Struct || len(quoted) < 2 {
		return nil
	}
	name := string(quoted[1 : len(quoted)-1])
	if f := s.fields[name]; f != nil {
		return f
	}
	if strings.ContainsRune(name, '\\') && json.Unmarshal(quoted, &name) != nil {
		return nil
	}
	if f := s.fields[name]; f != nil {
		return f
	}
	return s.folded[fold(name)]
}

// skip returns the end of the value at i, whatever its type.
func (w *jsonWalk) skip(i int) int {
	for open := 0; i < len(w.src); {
		switch w.src[i] {
		case '"':
			i = w.text(i)
		case '[', '{':
			open++
			i++
			continue
		case ']', '}':
			open--
			i++
		case ',', ':', ' ', '\t', '\r', '\n':
			i++
			continue
		default:
			i = w.literal(i)
		}
		if open <= 0 {
			return i
		}
	}
	return len(w.src)
}

// literal returns the end of a number or a word.
func (w *jsonWalk) literal(i int) int {
	for i < len(w.src) && bytes.IndexByte([]byte(",:]} \t\r\n\"[{"), w.src[i]) < 0 {
		i++
	}
	return i
}

// text returns the end of the string at i.
func (w *jsonWalk) text(i int) int {
	for i++; i < len(w.src); i++ {
		switch w.src[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(w.src)
}

func (w *jsonWalk) space(i int) int {
	for i < len(w.src) && (w.src[i] == ' ' || w.src[i] == '\n' || w.src[i] == '\t' || w.src[i] == '\r') {
		i++
	}
	return i
}
