package codec

import (
	"bytes"
	"reflect"
	"slices"
	"time"
)

// prove makes leaves of steps that do not do as msgpack does. Those are of types
// that were registered with msgpack, which nothing about them shows. made has
// the steps of a program, parts first: so each is proved with those of its parts
// that are leaves.
func prove(made []*step) {
	top := made[len(made)-1]
	if !top.departs(map[*step]bool{}) && top.proves() {
		return
	}
	for _, s := range made {
		if !s.proves() {
			s.becomeLeaf()
		}
	}
}

// departs reports whether s has a part that is left out where msgpack writes it,
// or the other way round.
func (s *step) departs(seen map[*step]bool) bool {
	if s == nil || seen[s] {
		return false
	}
	seen[s] = true
	if s.omits || s.elem.departs(seen) || s.key.departs(seen) {
		return true
	}
	return slices.ContainsFunc(s.fields, func(f stepField) bool { return f.step.departs(seen) })
}

// proves reports whether s does as msgpack does with a few values of its type:
// whether it makes the same bytes, and the same of them. Of a type that departs
// from msgpack in that, it only looks whether it was registered as an extension;
// its parts are proved by themselves.
func (s *step) proves() (ok bool) {
	defer func() {
		if r := recover(); r != nil { // what is registered may panic
			_, ok = r.(*failure) // and what is refused is refused whoever encodes it
		}
	}()
	shape, _, err := newShape(s.typ, false)
	if s.op == opLeaf || err != nil {
		return s.op == opLeaf
	}
	if s.departs(map[*step]bool{}) {
		src, err := msgpackAppend(nil, reflect.New(s.typ).Elem(), !s.wide)
		return err != nil || codes[src[0]].facts&sawExt == 0
	}
	for n := range 4 {
		v := reflect.New(s.typ)
		(&sample{n: n, left: 10_000}).fill(v.Elem())
		byLibrary, err := msgpackAppend(nil, v.Elem(), !s.wide)
		if err != nil || decodeLeaf(byLibrary, reflect.New(s.typ).Elem()) != nil {
			continue // a part that encodes itself does not take its zero value
		}
		bySelf := s.append(nil, v.UnsafePointer())
		if !bytes.Equal(byLibrary, bySelf) {
			return false
		}
		// What stood in an any is not decoded to its type.
		if !s.wide && !s.readsAlike(byLibrary, shape) {
			return false
		}
	}
	return true
}

// readsAlike reports whether s and msgpack make the same of src.
func (s *step) readsAlike(src []byte, shape *shape) bool {
	byLibrary, bySelf := reflect.New(s.typ), reflect.New(s.typ)
	if decodeLeaf(src, byLibrary.Elem()) != nil {
		return false
	}
	toUTC(shape, byLibrary.Elem())
	prog := program{top: s, nullable: true}
	ok, _ := prog.read(src, bySelf.UnsafePointer())
	return ok && reflect.DeepEqual(byLibrary.Interface(), bySelf.Interface())
}

// A sample fills a value: with n or what comes closest, in each part, one
// element in each slice and map, and nothing if n is 0. Embedded pointers are
// never nil, which msgpack does not tell from a pointer to nothing.
type sample struct {
	n    int
	left int // parts that may still be filled
	path []reflect.Type
}

func (s *sample) fill(v reflect.Value) {
	if s.left--; s.left < 0 || s.n == 0 && v.Kind() != reflect.Struct || slices.Contains(s.path, v.Type()) {
		return // a type within itself ends there
	}
	s.path = append(s.path, v.Type())
	defer func() { s.path = s.path[:len(s.path)-1] }()
	if own, _ := encodesItself(v.Type(), ""); own && v.Type() != timeType && v.Type() != timePointerType {
		return // it may take few values
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(s.n%2 == 1)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(s.n))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(s.n))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(float64(s.n) + 0.5)
	case reflect.String:
		v.SetString("sample"[:s.n])
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		s.fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		s.fill(v.Index(0))
	case reflect.Array:
		for i := range v.Len() {
			s.fill(v.Index(i))
		}
	case reflect.Map:
		key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		s.fill(key)
		s.fill(elem)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, elem)
	case reflect.Struct:
		if v.Type() == timeType {
			if s.n > 0 {
				v.Set(reflect.ValueOf(time.Unix(int64(s.n), int64(s.n)).UTC()))
			}
			return
		}
		for i := range v.NumField() {
			part, f := v.Type().Field(i), v.Field(i)
			switch {
			case part.Anonymous && f.Kind() == reflect.Pointer && f.CanSet() && f.Type().Elem().Kind() == reflect.Struct:
				f.Set(reflect.New(f.Type().Elem()))
				s.fill(f.Elem())
			// Of an embedded struct whose type is not exported, the fields that are.
			case f.CanSet() || part.Anonymous && f.Kind() == reflect.Struct:
				s.fill(f)
			}
		}
	}
}
