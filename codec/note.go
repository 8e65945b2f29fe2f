package codec

import (
	"reflect"
)

// jsonNote returns a note about the first field in t with the tag json:"-", or
// nil. The struct around the field must have json tags and no msgpack tags.
// JSON hides such a field, and MessagePack stores it in clear.
func jsonNote(t reflect.Type) error {
	if at := hiddenFromJSON(t, t.String(), map[reflect.Type]bool{}); at != "" {
		return &failure{at + ` has the tag json:"-" and is stored all the same: MessagePack goes by msgpack tags`, []error{ErrNote}}
	}
	return nil
}

// hiddenFromJSON returns the path of that field, or "".
func hiddenFromJSON(t reflect.Type, path string, seen map[reflect.Type]bool) string {
	if seen[t] || t == timeType {
		return ""
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer:
		return hiddenFromJSON(t.Elem(), path, seen)
	case reflect.Slice, reflect.Array:
		return hiddenFromJSON(t.Elem(), path+"[]", seen)
	case reflect.Map:
		if at := hiddenFromJSON(t.Key(), path+" key", seen); at != "" {
			return at
		}
		return hiddenFromJSON(t.Elem(), path+"[]", seen)
	case reflect.Struct:
		if own, err := encodesItself(t, path); own || err != nil {
			return ""
		}
		hidden := ""
		for f := range t.Fields() {
			if !f.IsExported() && !f.Anonymous {
				continue
			}
			if _, ok := f.Tag.Lookup("msgpack"); ok {
				return "" // the author uses msgpack tags
			}
			if hidden == "" && f.Tag.Get("json") == "-" {
				hidden = path + "." + f.Name
			}
		}
		if hidden != "" {
			return hidden
		}
		for f := range t.Fields() {
			if at := hiddenFromJSON(f.Type, path+"."+f.Name, seen); at != "" && (f.IsExported() || f.Anonymous) {
				return at
			}
		}
	}
	return ""
}
