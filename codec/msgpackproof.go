package codec

import (
	"bytes"
	"reflect"
	"slices"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// proves tells whether the program does as msgpack does with a few values of t.
// It finds what cannot be asked for: a type that was registered with msgpack, of
// which the functions may do anything.
func (p *program) proves(t reflect.Type) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false // what is registered may panic
		}
	}()
	for n := range 4 {
		v, byLibrary, byProgram := reflect.New(t), reflect.New(t), reflect.New(t)
		(&sample{n: n, left: 10_000}).fill(v.Elem())
		var buf bytes.Buffer
		enc := msgpack.NewEncoder(&buf)
		enc.UseCompactInts(true)
		if enc.Encode(v.Interface()) != nil || !bytes.Equal(buf.Bytes(), p.top.append(nil, v.UnsafePointer())) {
			return false
		}
		if msgpack.NewDecoder(bytes.NewReader(buf.Bytes())).Decode(byLibrary.Interface()) != nil {
			return false
		}
		if ok, _ := p.read(buf.Bytes(), byProgram.UnsafePointer()); !ok {
			return false
		}
		if !reflect.DeepEqual(byLibrary.Interface(), byProgram.Interface()) {
			return false
		}
	}
	return true
}

// A sample fills a value: with n or what comes closest, in each part, one
// element in each slice and map, and nothing at all if n is 0.
type sample struct {
	n    int
	left int // parts that may still be filled
	path []reflect.Type
}

func (s *sample) fill(v reflect.Value) {
	if s.left--; s.left < 0 || s.n == 0 || slices.Contains(s.path, v.Type()) {
		return // a type within itself ends there
	}
	s.path = append(s.path, v.Type())
	defer func() { s.path = s.path[:len(s.path)-1] }()
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
			v.Set(reflect.ValueOf(time.Unix(int64(s.n), int64(s.n))))
			return
		}
		for i := range v.NumField() {
			// Of an embedded struct whose type is not exported, the fields that are.
			if f := v.Field(i); f.CanSet() || v.Type().Field(i).Anonymous && f.Kind() == reflect.Struct {
				s.fill(f)
			}
		}
	}
}
