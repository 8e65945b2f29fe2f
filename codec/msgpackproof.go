package codec

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"time"
)

// prove makes leaves of the steps that differ from msgpack. Their types were
// registered with msgpack, which the types themselves do not show. made holds
// the steps of a program, parts first, so each step is compared after its parts
// have become leaves where necessary.
func prove(made []*step) {
	top := made[len(made)-1]
	if !top.departs(map[*step]bool{}) && top.likeMsgpack() == same {
		return
	}
	for _, s := range made {
		if s.likeMsgpack() == different {
			s.becomeLeaf()
		}
	}
}

// likeness is the result of comparing a step with msgpack.
type likeness uint8

const (
	same      likeness = iota
	undecided          // a value of the type, or a part of it, could not be compared
	different
)

// departs reports whether s has a part that it leaves out and msgpack writes,
// or the reverse.
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

// likeMsgpack compares s with msgpack on a few values of its type. Both must
// encode a value to the same bytes, and decode these to the same value. A type
// that departs from msgpack is compared with an unregistered type of the same
// parts.
//
// The result is undecided if one value could not be compared. For instance,
// msgpack cannot encode a map with keys or elements whose methods have pointer
// receivers. Such a map in a struct hides all other fields of that struct.
func (s *step) likeMsgpack() likeness {
	shape, _, err := newShape(s.typ, false)
	if s.op == opLeaf || err != nil {
		return same
	}
	compare := func(v reflect.Value) likeness { return s.compare(v, shape) }
	if s.departs(map[*step]bool{}) {
		twin := twinOf(s.typ)
		compare = func(v reflect.Value) likeness { return s.compareTwin(v, twin) }
	}
	all := same
	for n := range 4 {
		v := reflect.New(s.typ)
		sample := sample{n: n, left: 10_000}
		sample.fill(v.Elem())
		all = max(all, compare(v))
		if sample.left < 0 {
			all = max(all, undecided) // the rest was not filled
		}
	}
	return all
}

var errPanicked = errors.New("panicked")

// recovered returns the error of f, or errPanicked if f panics. Registered
// functions may panic.
func recovered(f func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = errPanicked
		}
	}()
	return f()
}

// compare compares s with msgpack on *v.
func (s *step) compare(v reflect.Value, shape *shape) (l likeness) {
	defer func() {
		if r := recover(); r != nil {
			l = different // a registered function may panic
			if _, refused := r.(*failure); refused {
				l = undecided
			}
		}
	}()
	byLibrary, err := msgpackAppend(nil, v.Elem(), !s.wide)
	if err != nil || decodeLeaf(byLibrary, reflect.New(s.typ).Elem()) != nil {
		return undecided // a part that encodes itself does not decode its zero value
	}
	bySelf := s.append(nil, v.UnsafePointer())
	// A value in an any is not decoded to its type.
	if !bytes.Equal(byLibrary, bySelf) || !s.wide && !s.readsAlike(byLibrary, shape) {
		return different
	}
	return same
}

// twinOf returns an unnamed type of the same parts as t. If reflect cannot make
// it, as with some embedded fields, it returns t.
func twinOf(t reflect.Type) (twin reflect.Type) {
	defer func() {
		if recover() != nil {
			twin = t
		}
	}()
	switch t.Kind() {
	case reflect.Slice:
		return reflect.SliceOf(t.Elem())
	case reflect.Map:
		return reflect.MapOf(t.Key(), t.Elem())
	case reflect.Array:
		return reflect.ArrayOf(t.Len(), t.Elem())
	case reflect.Struct:
		return reflect.StructOf(slices.Collect(t.Fields()))
	}
	return t
}

// compareTwin compares msgpack's handling of *v with its handling of an equal
// value of type twin. If msgpack encodes *v as an extension, the type is
// certainly registered.
func (s *step) compareTwin(v reflect.Value, twin reflect.Type) likeness {
	var src, byTwin []byte
	err := recovered(func() (err error) {
		src, err = msgpackAppend(nil, v.Elem(), !s.wide)
		return err
	})
	if err == nil && codes[src[0]].facts&sawExt != 0 {
		return different
	}
	if twin == s.typ {
		return undecided
	}
	w := reflect.New(twin)
	w.Elem().Set(v.Elem().Convert(twin))
	if recovered(func() (err error) {
		byTwin, err = msgpackAppend(nil, w.Elem(), !s.wide)
		return err
	}) != nil {
		return undecided
	}
	if err != nil || !bytes.Equal(src, byTwin) {
		return different
	}
	v, w = reflect.New(s.typ), reflect.New(twin)
	if s.wide || recovered(func() error { return decodeLeaf(src, w.Elem()) }) != nil {
		return same
	}
	if recovered(func() error { return decodeLeaf(src, v.Elem()) }) != nil ||
		!reflect.DeepEqual(v.Elem().Convert(twin).Interface(), w.Elem().Interface()) {
		return different
	}
	return same
}

// readsAlike reports whether s and msgpack decode src to the same value.
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

// sample fills a value. Each part becomes n or the closest value, and each
// slice and map gets one element. If n is 0, parts stay zero. Embedded pointers
// are never nil, since msgpack does not distinguish nil from a pointer to an
// empty struct.
type sample struct {
	n    int
	left int // parts that may still be filled
	path []reflect.Type
}

func (s *sample) fill(v reflect.Value) {
	if s.left--; s.left < 0 || s.n == 0 && v.Kind() != reflect.Struct || slices.Contains(s.path, v.Type()) {
		return // a recursive type ends here
	}
	s.path = append(s.path, v.Type())
	defer func() { s.path = s.path[:len(s.path)-1] }()
	if own, _ := encodesItself(v.Type(), ""); own && v.Type() != timeType && v.Type() != timePointerType {
		return // it may accept few values
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
			// For an embedded struct of an unexported type, the exported fields
			// are filled.
			case f.CanSet() || part.Anonymous && f.Kind() == reflect.Struct:
				s.fill(f)
			}
		}
	}
}
