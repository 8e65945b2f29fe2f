package codec

import (
	"fmt"
	"reflect"
	"sync"
)

// maxHops bounds the pointers, interfaces, structs and containers on the way
// from a value to any of its parts: enough for maxDepth containers, each behind
// a pointer in an any, and few enough for the encoder's stack.
const maxHops = 4 * maxDepth

// maxParts bounds the parts of a value that are visited. Parts that are shared
// count as often as they are met, and are encoded as often: a hundred structs of
// which each points twice to the next have more than there are bytes on earth.
const maxParts = 1 << 24

var errTooManyParts = cannotEncode("more than 16 million parts, counting shared ones as often as they are met", ErrTooLarge)

var errEncodeTooDeep = cannotEncode(fmt.Sprintf("nested deeper than %d, or in a cycle", maxDepth), ErrTooLarge)

// A climb follows a value before it is encoded, where its type lets it nest
// without end: an encoder that follows a cycle overflows the stack, and that
// kills the process. Other types are not followed, so most values cost nothing.
type climb struct {
	generated bool
	left      int // of maxParts
}

// checkDepth follows v, of shape s, and returns an error if it does not end soon
// enough. generated says in whose terms the types of what an any holds are seen.
func checkDepth(s *shape, v reflect.Value, generated bool) error {
	c := climb{generated, maxParts}
	return c.value(s, v, 0)
}

// value follows v, which is hops away from where the climb began.
func (c *climb) value(s *shape, v reflect.Value, hops int) error {
	if !s.nests {
		return nil // most parts even of values that nest: no need to look inside
	}
	if c.left--; c.left < 0 {
		return errTooManyParts
	}
	if hops++; hops > maxHops {
		return errEncodeTooDeep
	}
	switch s.kind {
	case shapeAny:
		return c.any(v, hops)
	case shapePointer:
		if !v.IsNil() {
			return c.value(s.elem, v.Elem(), hops)
		}
	case shapeSlice, shapeArray:
		for i := range v.Len() {
			if err := c.value(s.elem, v.Index(i), hops); err != nil {
				return err
			}
		}
	case shapeMap:
		for iter := v.MapRange(); iter.Next(); {
			if err := c.value(s.key, iter.Key(), hops); err != nil {
				return err
			}
			if err := c.value(s.elem, iter.Value(), hops); err != nil {
				return err
			}
		}
	case shapeStruct:
		for _, f := range s.fields {
			if !f.shape.nests {
				continue
			}
			part, err := v.FieldByIndexErr(f.index)
			if err != nil {
				continue // in an embedded pointer that is nil
			}
			if err := c.value(f.shape, part, hops); err != nil {
				return err
			}
		}
	}
	return nil
}

// any follows the value in the interface v.
func (c *climb) any(v reflect.Value, hops int) error {
	if v.IsNil() {
		return nil
	}
	if v.CanInterface() {
		return c.dynamic(v.Interface(), hops)
	}
	return c.reflected(v.Elem(), hops)
}

// dynamic follows what an any holds. What JSON decodes to is the common case
// and goes without reflection.
func (c *climb) dynamic(x any, hops int) error {
	switch x := x.(type) {
	case nil, string, []byte, bool, int, int64, uint64, float64:
		return nil
	case map[string]any:
		if hops++; hops > maxHops {
			return errEncodeTooDeep
		}
		for _, e := range x {
			if err := c.visit(e, hops); err != nil {
				return err
			}
		}
		return nil
	case []any:
		if hops++; hops > maxHops {
			return errEncodeTooDeep
		}
		for _, e := range x {
			if err := c.visit(e, hops); err != nil {
				return err
			}
		}
		return nil
	}
	return c.reflected(reflect.ValueOf(x), hops)
}

// visit counts x as a part and follows it.
func (c *climb) visit(x any, hops int) error {
	if c.left--; c.left < 0 {
		return errTooManyParts
	}
	return c.dynamic(x, hops)
}

// reflected follows a v whose type was not known until now. The type may be one
// that msgpack cannot encode, or cannot even look at without harm.
func (c *climb) reflected(v reflect.Value, hops int) error {
	s, err := dynamicShape(v.Type(), c.generated)
	if err != nil {
		return cannotEncode(err.msg, err)
	}
	return c.value(s, v, hops)
}

// dynamicShapes holds the shapes of types that were found in an any, made when
// first met. It never shrinks: programs have finitely many types.
var dynamicShapes sync.Map // of dynamicType to *dynamicResult

type dynamicType struct {
	t         reflect.Type
	generated bool
}

type dynamicResult struct {
	shape *shape
	err   *failure
}

func dynamicShape(t reflect.Type, generated bool) (*shape, *failure) {
	key := dynamicType{t, generated}
	r, ok := dynamicShapes.Load(key)
	if !ok {
		s, _, err := newShape(t, generated)
		r, _ = dynamicShapes.LoadOrStore(key, &dynamicResult{s, err})
	}
	return r.(*dynamicResult).shape, r.(*dynamicResult).err
}
