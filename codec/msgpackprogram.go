package codec

import (
	"reflect"
	"slices"
	"sync"
	"time"
)

// A program is a plan compiled: it decodes and encodes values of one type by
// what is known of the type, where msgpack asks reflect for each part of each
// value. It takes a quarter of the time or less.
//
// It knows the types that most values are made of, and of bytes those that
// encoders write. Of all else it is unsure, and then it leaves the work to
// msgpack: the whole type, if compile meets a part that it does not know, or one
// Decode, if read meets bytes that it does not expect. So it need not find words
// for what is wrong with bytes, and what it accepts must be what msgpack accepts
// behind check: the same value of it, to the bit.
type program struct {
	top      *step
	nullable bool // as in plan
}

// A step of a program is what to do about a part of the type.
//
// # Why its pointers are right
//
// read and append are given a step and an unsafe.Pointer. That points at a
// variable of the step's type, or of one with the same memory:
//
//   - at the top it is the *V of the codec whose V the program was compiled of;
//   - a struct's step adds the offset that reflect has for a field, and goes on
//     with the step of that field's type;
//   - those of a slice and an array add the size of an element times an index
//     below the length, which is that of the array's type, that in the slice's
//     header, or that of the slice made just before;
//   - a pointer's step follows what it has just read and found not to be nil, or
//     has just made by reflect.New of that type.
//
// Each keeps its object alive, as an unsafe.Pointer does, and none is kept after
// the call. Integers, floats, bools and bytes are read and written as the basic
// type of their kind and size, strings as string, and a slice as []byte for its
// length or, if its elements are strings, as []string: named types of one
// underlying type have one layout. All else goes by reflect.NewAt.
type step struct {
	op   op
	typ  reflect.Type
	elem *step // of pointers, slices, arrays and maps
	key  *step // of maps
	size uintptr
	n    int // length of an array

	base, each int64 // what one may allocate, and for each element: see pointerCost

	fields []stepField
	byName map[string]int // of structs: index of the field, or unsure
	omits  bool           // of structs: a field has omitempty
	temps  sync.Pool      // of maps: *mapTemps
}

type stepField struct {
	key    string // the name as it is encoded
	offset uintptr
	step   *step
	omit   bool // omitempty
}

type op uint8

const (
	opBool op = iota
	opInt8
	opInt16
	opInt32
	opInt64
	opUint8
	opUint16
	opUint32
	opUint64
	opFloat32
	opFloat64
	opString
	opBytes
	opByteArray
	opTime
	opPointer
	opSlice
	opArray
	opMap
	opStruct
)

// unsure is in byName for what only msgpack knows to decode: an alias, or an
// embedded struct under its own name.
const unsure = -1

// maxCompiled is the size of the largest part that is compiled. The program is
// tried out first, which ought not to take long.
const maxCompiled = 64 << 10

// compile returns the program of t, of which p is the plan, or nil if it is not
// sure of t. It must not be called before the program's init functions have run,
// since those may register types with msgpack.
func compile(t reflect.Type, p *plan) *program {
	c := compiler{steps: map[reflect.Type]*step{}}
	prog := &program{top: c.step(t, p.top), nullable: p.nullable}
	if c.unsure || !prog.proves(t) {
		return nil
	}
	return prog
}

type compiler struct {
	steps  map[reflect.Type]*step
	unsure bool
}

// step returns the step of t, whose shape is s. The shape has been made, so t
// is one that can be encoded, and s says if it encodes itself.
func (c *compiler) step(t reflect.Type, s *shape) *step {
	if st := c.steps[t]; st != nil {
		return st
	}
	st := &step{typ: t, size: t.Size()}
	c.steps[t] = st
	switch {
	case t == timeType:
		st.op = opTime
		return st
	case t == timePointerType:
		// It has the methods by which other types encode themselves, as a time
		// has, but msgpack looks first for what is registered.
		st.op, st.base = opPointer, rounded(int64(timeType.Size()))
		st.elem = c.step(timeType, nil)
		return st
	case s.kind == shapeOpaque, s.kind == shapeAny, t.Size() > maxCompiled:
		c.unsure = true
		return st
	}
	switch t.Kind() {
	case reflect.Bool:
		st.op = opBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		st.op = map[int]op{8: opInt8, 16: opInt16, 32: opInt32, 64: opInt64}[t.Bits()]
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		st.op = map[int]op{8: opUint8, 16: opUint16, 32: opUint32, 64: opUint64}[t.Bits()]
	case reflect.Float32:
		st.op = opFloat32
	case reflect.Float64:
		st.op = opFloat64
	case reflect.String:
		st.op = opString
	case reflect.Pointer:
		st.op, st.base = opPointer, pointerCost(s)
		st.elem = c.step(t.Elem(), s.elem)
	case reflect.Slice, reflect.Array:
		c.sequence(st, s)
	case reflect.Map:
		st.op, st.base = opMap, mapCost(s, 0)
		st.each = mapCost(s, 1) - st.base
		st.key, st.elem = c.step(t.Key(), s.key), c.step(t.Elem(), s.elem)
		if k := st.key.op; k != opString && (k < opInt8 || k > opUint64) {
			c.unsure = true
		}
	case reflect.Struct:
		c.structure(st, s)
	default:
		c.unsure = true
	}
	return st
}

func (c *compiler) sequence(st *step, s *shape) {
	isArray := st.typ.Kind() == reflect.Array
	if isArray {
		st.n = st.typ.Len()
	}
	switch isByte := st.typ.Elem().Kind() == reflect.Uint8; {
	case isByte && isArray:
		st.op = opByteArray
	case isByte:
		st.op = opBytes
	case isArray:
		st.op = opArray
		st.elem = c.step(st.typ.Elem(), s.elem)
	default:
		st.op, st.each = opSlice, sliceCost(s, 1)
		st.elem = c.step(st.typ.Elem(), s.elem)
	}
}

func (c *compiler) structure(st *step, s *shape) {
	st.op = opStruct
	st.byName = make(map[string]int, len(s.byName))
	for name := range s.byName {
		st.byName[name] = unsure
	}
	for i, f := range s.fields {
		sf := stepField{key: string(appendTextHead(nil, len(f.name))) + f.name}
		t := st.typ
		for _, index := range f.index {
			// In an embedded pointer, which may be nil; or in a struct with an
			// option for all of its fields.
			if t.Kind() != reflect.Struct || hasOptions(t) {
				c.unsure = true
				return
			}
			part := t.Field(index)
			tag, ok := parseTag(part.Tag.Get("msgpack"))
			if !ok || slices.ContainsFunc(tag.options, unknownOption) {
				c.unsure = true
				return
			}
			t = part.Type
			sf.offset += part.Offset
			sf.omit = tag.has("omitempty")
		}
		// Of a type with IsZero msgpack asks that whether it is empty.
		if sf.omit && t != timeType && t != timePointerType && t.Implements(zeroerType) {
			c.unsure = true
			return
		}
		sf.step = c.step(t, f.shape)
		st.omits = st.omits || sf.omit
		st.fields = append(st.fields, sf)
		st.byName[f.name] = i
	}
	if hasOptions(st.typ) {
		c.unsure = true
	}
}

var (
	timePointerType = reflect.TypeFor[*time.Time]()
	zeroerType      = reflect.TypeFor[interface{ IsZero() bool }]()
)

// hasOptions tells whether t has the field whose tag is for the whole struct,
// by the name of which msgpack knows it.
func hasOptions(t reflect.Type) bool {
	_, ok := t.FieldByName("_msgpack")
	return ok
}

func unknownOption(option string) bool {
	return option != "omitempty" && option != "inline" && option != "noinline" && option != ""
}

// mapTemps hold a key and an element of a map on their way into it or out of it.
type mapTemps struct{ key, elem reflect.Value }

func (s *step) getTemps() *mapTemps {
	if t, ok := s.temps.Get().(*mapTemps); ok {
		return t
	}
	return &mapTemps{reflect.New(s.key.typ).Elem(), reflect.New(s.elem.typ).Elem()}
}

// putTemps takes back temps that are zero again.
func (s *step) putTemps(t *mapTemps) { s.temps.Put(t) }
