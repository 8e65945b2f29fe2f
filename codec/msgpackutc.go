package codec

import (
	"reflect"
	"time"
)

// toUTC sets every time in the variable v, of shape s, to UTC. msgpack decodes
// times to the time zone of the process, which the encoder does not know.
func toUTC(s *shape, v reflect.Value) {
	if !s.times {
		return
	}
	switch s.kind {
	case shapeTime:
		t := v.Addr().Interface().(*time.Time)
		*t = t.UTC()
	case shapeAny:
		if !v.IsNil() {
			v.Set(reflect.ValueOf(inUTC(v.Interface())))
		}
	case shapePointer:
		if !v.IsNil() {
			toUTC(s.elem, v.Elem())
		}
	case shapeSlice, shapeArray:
		for i := range v.Len() {
			toUTC(s.elem, v.Index(i))
		}
	case shapeMap:
		if v.Len() == 0 {
			return
		}
		all := reflect.MakeMapWithSize(v.Type(), v.Len())
		for iter := v.MapRange(); iter.Next(); {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			k.SetIterKey(iter)
			e.SetIterValue(iter)
			toUTC(s.key, k)
			toUTC(s.elem, e)
			all.SetMapIndex(k, e)
		}
		v.Set(all)
	case shapeStruct:
		for _, f := range s.fields {
			if part, err := v.FieldByIndexErr(f.index); err == nil && f.shape.times {
				toUTC(f.shape, part)
			}
		}
	}
}

// inUTC returns x, which msgpack decoded to an any, with times in UTC.
func inUTC(x any) any {
	switch x := x.(type) {
	case time.Time:
		return x.UTC()
	case []any:
		for i := range x {
			x[i] = inUTC(x[i])
		}
	case map[string]any:
		for k, e := range x {
			x[k] = inUTC(e)
		}
	case map[any]any:
		// A new map is needed: in x a NaN key can be neither replaced nor
		// deleted.
		all := make(map[any]any, len(x))
		for k, e := range x {
			all[inUTC(k)] = inUTC(e)
		}
		return all
	}
	return x
}
