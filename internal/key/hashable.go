package key

import (
	"errors"
	"reflect"
)

// ErrUnhashable reports that a key holds a value that Go cannot compare, for
// example a slice in a field or element of an interface type. Such a key cannot
// be the key of a map.
var ErrUnhashable = errors.New("the key holds a value that cannot be the key of a map")

// Hides reports whether a K can hold a value that cannot be compared.
func Hides[K comparable]() bool { return hides(reflect.TypeFor[K]()) }

func hides(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Interface:
		return true
	case reflect.Array:
		return hides(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if hides(t.Field(i).Type) {
				return true
			}
		}
	}
	return false
}

// Hashable returns nil if k can be the key of a map, otherwise ErrUnhashable.
func (t *Template[K]) Hashable(k K) error {
	if t.hides {
		return Hashable(k)
	}
	return nil
}

// Hashable returns nil if k can be the key of a map, otherwise ErrUnhashable. A
// frequent caller asks Hides first.
//
// It looks up k in a map. reflect.Value.Comparable would inspect the elements
// of an array, and treat an empty array as comparable.
func Hashable[K comparable](k K) (err error) {
	defer func() {
		if recover() != nil {
			err = ErrUnhashable
		}
	}()
	_ = map[K]struct{}(nil)[k]
	return nil
}
