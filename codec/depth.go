package codec

import (
	"fmt"
	"reflect"
	"sync"
)

// maxHops bounds the pointers, interfaces, structs and containers between a
// value and any of its parts. It allows maxDepth containers, each behind a
// pointer in an any, and protects the stack of the encoder.
const maxHops = 4 * maxDepth

// maxParts bounds the parts of a value that are visited. A shared part is
// visited and encoded once per reference. In a hundred structs that each point
// twice to the next, there are more parts than bytes on earth.
const maxParts = 1 << 24

var errTooManyParts = cannotEncode("more than 16 million parts, counting shared ones as often as they are met", ErrTooLarge)

var errEncodeTooDeep = cannotEncode(fmt.Sprintf("nested deeper than %d, or in a cycle", maxDepth), ErrTooLarge)

// climb follows a value before it is encoded, if its type permits endless
// nesting. An encoder that follows a cycle overflows the stack, which kills the
// process. Other types are not followed, so most values cost nothing.
type climb struct {
	generated bool
	left      int // remaining of maxParts
}

// checkDepth follows v, of shape s, and returns an error if it nests too deep
// or has too many parts. If generated is true, the dynamic type in an any is
// treated as a type with generated methods.
func checkDepth(s *shape, v reflect.Value, generated bool) error {
	c := climb{generated, maxParts}
	return c.value(s, v, 0)
}

// value follows v, which is hops away from the start of the climb.
func (c *climb) value(s *shape, v reflect.Value, hops int) error {
	if !s.nests {
		return nil // true for most parts, even of values that nest
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
				continue // behind an embedded nil pointer
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

// dynamic follows the value in an any. The types that JSON decodes to are the
// common case, and need no reflection.
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

// reflected follows v, whose type is only known at run time. msgpack may be
// unable to encode that type, or even to inspect it safely.
func (c *climb) reflected(v reflect.Value, hops int) error {
	s, err := dynamicShape(v.Type(), c.generated)
	if err != nil {
		return cannotEncode(err.msg, err)
	}
	return c.value(s, v, hops)
}

// dynamicShapes holds the shapes of types that were found in an any. A shape is
// made when its type is first met. The map never shrinks, since a program has
// finitely many types.
var dynamicShapes sync.Map // dynamicType to *dynamicResult

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
