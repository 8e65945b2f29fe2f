package codec

import (
	"fmt"
	"reflect"
	"sync"
	"unsafe"
)

// program is a compiled plan: it decodes and encodes values of one type.
// msgpack calls reflect for each part of each value. A program knows the type
// in advance, and takes a quarter of the time or less.
//
// It encodes in the format of msgpack, but keeps the parts of a value that
// msgpack loses. omitempty leaves out only zero values, an embedded nil pointer
// is left out, and map keys are sorted. A part that encodes itself, or that was
// registered with msgpack, is a leaf, which msgpack encodes.
//
// It decodes the bytes that encoders write. If it meets any other bytes it is
// unsure, and leaves the whole Decode to msgpack. So it need not describe
// faults in the bytes. Bytes that it accepts, msgpack must accept after check,
// with the same value to the bit.
type program struct {
	top      *step
	nullable bool // like plan.nullable
}

// step is the part of a program for one part of the type.
//
// # Why its pointers are right
//
// read and append take a step and an unsafe.Pointer. The pointer points to a
// variable of the step's type, or of a type with the same memory layout:
//
//   - at the top it is the *V of the codec for whose V the program was
//     compiled;
//   - a struct's step adds the offset that reflect reports for a field, and
//     continues with the step of that field's type;
//   - the step of a slice or an array adds the size of an element times an
//     index below the length. For an array the type states the length. For a
//     slice the length is in its header, or is the length with which the step
//     has just made it;
//   - a pointer's step follows a pointer that is not nil. It has just read that
//     pointer, or has just made it by reflect.New of that type.
//
// Each unsafe.Pointer keeps its object alive, and none is kept after the call.
// Integers, floats, bools and bytes are read and written as the basic type of
// their kind and size, and strings as string. A slice is read as []byte for its
// length. If its elements are strings, it is read as []string. Named types of
// one underlying type have one layout. All other types use reflect.NewAt.
type step struct {
	op   op
	typ  reflect.Type
	elem *step // of pointers, slices, arrays and maps
	key  *step // of maps
	size uintptr
	n    int // length of an array

	base, each int64 // bytes allocated in total and per element: see pointerCost

	fields []stepField
	byName map[string]int // of structs: index of the field, or unsure
	omits  bool           // of structs: a field may be left out
	array  bool           // of structs: stored as an array
	temps  sync.Pool      // of maps: *mapTemps

	wide    bool // inside an any, which distinguishes int8 from int64
	compact bool // of leaves: integers may lose their width
	shape   *shape
	strict  bool // of pointers: refuse a pointer to nil, which would come back as nil
}

type stepField struct {
	key    string // the encoded name
	hops   []hop  // the embedded pointers on the way
	offset uintptr
	step   *step
	omit   bool // left out if empty
}

// hop is an embedded pointer.
type hop struct {
	offset uintptr
	typ    reflect.Type // of its target
	cost   int64
}

// at returns the address of the field in the struct at p, or nil if a pointer
// on the way is nil.
func (f *stepField) at(p unsafe.Pointer) unsafe.Pointer {
	for i := range f.hops {
		if p = *(*unsafe.Pointer)(unsafe.Add(p, f.hops[i].offset)); p == nil {
			return nil
		}
	}
	return unsafe.Add(p, f.offset)
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
	opLeaf    // left to msgpack
	opAny     // an empty interface
	opWide    // an integer that keeps its width
	opKeyTime // a time as a map key
	opKeyAny  // an any as a map key
)

// unsure is in byName for names that only msgpack can decode: an alias, or an
// embedded struct under its own name.
const unsure = -1

// maxCompiled is the size in bytes of the largest part that is compiled. The
// program is first tried on samples, which should not take long.
const maxCompiled = 1 << 20

// compile returns the program of t, whose plan is p. It must not run before all
// init functions have run, since these may register types with msgpack. If wide
// is true, values of t are inside an any.
func compile(t reflect.Type, p *plan, wide bool) *program {
	c := compiler{steps: map[stepKey]*step{}, wide: wide}
	prog := &program{top: c.step(t, p.top, false), nullable: p.nullable}
	prove(c.made)
	for _, st := range c.made {
		st.strict = st.op == opPointer && !wide && st.elem.encodesNil()
		st.compact = p.compact && !wide
	}
	return prog
}

type compiler struct {
	steps map[stepKey]*step
	made  []*step // parts before their holders
	wide  bool
}

// stepKey identifies a step. Map keys have separate steps, since they must come
// back as the same key.
type stepKey struct {
	t   reflect.Type
	key bool
}

// step returns the step of t, whose shape is s. The shape exists, so t can be
// encoded, and s says whether it encodes itself.
func (c *compiler) step(t reflect.Type, s *shape, key bool) *step {
	if st := c.steps[stepKey{t, key}]; st != nil {
		return st
	}
	st := &step{typ: t, size: t.Size(), wide: c.wide, shape: s}
	c.steps[stepKey{t, key}] = st
	c.fill(st, s, key)
	c.made = append(c.made, st)
	return st
}

func (c *compiler) fill(st *step, s *shape, key bool) {
	t := st.typ
	switch {
	case t == timeType && key:
		st.op = opKeyTime
		return
	case t == timeType:
		st.op = opTime
		return
	case s.kind == shapeOpaque, t.Size() > maxCompiled:
		st.becomeLeaf()
		return
	}
	switch t.Kind() {
	case reflect.Bool:
		st.op = opBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		st.op = map[int]op{8: opInt8, 16: opInt16, 32: opInt32, 64: opInt64}[t.Bits()]
		if c.wide && t.Kind() != reflect.Int {
			st.op = opWide
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		st.op = map[int]op{8: opUint8, 16: opUint16, 32: opUint32, 64: opUint64}[t.Bits()]
		if c.wide && t.Kind() != reflect.Uint {
			st.op = opWide
		}
	case reflect.Float32:
		st.op = opFloat32
	case reflect.Float64:
		st.op = opFloat64
	case reflect.String:
		st.op = opString
	case reflect.Interface:
		st.op = opAny
		if key && !c.wide {
			st.op = opKeyAny
		}
	case reflect.Pointer:
		st.op, st.base = opPointer, pointerCost(s)
		st.elem = c.step(t.Elem(), s.elem, key)
	case reflect.Slice, reflect.Array:
		c.sequence(st, s, key)
	case reflect.Map:
		st.op, st.base = opMap, mapCost(s, 0)
		st.each = mapCost(s, 1) - st.base
		st.key, st.elem = c.step(t.Key(), s.key, true), c.step(t.Elem(), s.elem, false)
	case reflect.Struct:
		c.structure(st, s, key)
	default:
		st.becomeLeaf()
	}
}

// becomeLeaf leaves s to msgpack.
func (s *step) becomeLeaf() {
	s.op, s.elem, s.key, s.fields = opLeaf, nil, nil, nil
	s.compact = !s.wide
}

// encodesNil reports whether a value of s may be encoded as nil.
func (s *step) encodesNil() bool {
	switch s.op {
	case opPointer, opSlice, opBytes, opMap, opAny, opKeyAny, opLeaf:
		return true
	}
	return false
}

func (c *compiler) sequence(st *step, s *shape, key bool) {
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
		st.elem = c.step(st.typ.Elem(), s.elem, key)
	default:
		st.op, st.each = opSlice, sliceCost(s, 1)
		st.elem = c.step(st.typ.Elem(), s.elem, key)
	}
}

func (c *compiler) structure(st *step, s *shape, key bool) {
	st.op, st.array = opStruct, s.array
	st.byName = make(map[string]int, len(s.byName))
	for name := range s.byName {
		st.byName[name] = unsure
	}
	told := map[string]bool{} // embedded pointers whose first field has been met
	for i, f := range s.fields {
		sf := stepField{key: string(appendTextHead(nil, len(f.name))) + f.name, omit: f.omit}
		t := st.typ
		for _, index := range f.index {
			if t.Kind() == reflect.Pointer {
				t = t.Elem()
				sf.hops = append(sf.hops, hop{sf.offset, t, rounded(int64(t.Size()))})
				sf.offset = 0
			}
			part := t.Field(index)
			t = part.Type
			sf.offset += part.Offset
		}
		if len(sf.hops) > 0 {
			// The first field behind a pointer is always written, so that it
			// tells the pointer from nil.
			if at := fmt.Sprint(sf.hops); !told[at] {
				told[at], sf.omit = true, false
			}
			st.omits = true
		}
		sf.step = c.step(t, f.shape, key)
		st.omits = st.omits || sf.omit
		st.fields = append(st.fields, sf)
		st.byName[f.name] = i
	}
}

// mapTemps holds a key and an element of a map while they are copied into it or
// out of it. It also holds the positions of the encoded entries.
type mapTemps struct {
	key, elem reflect.Value
	entries   entries
}

func (s *step) getTemps() *mapTemps {
	if t, ok := s.temps.Get().(*mapTemps); ok {
		return t
	}
	return &mapTemps{key: reflect.New(s.key.typ).Elem(), elem: reflect.New(s.elem.typ).Elem()}
}

// putTemps takes temps back. They must be zero again.
func (s *step) putTemps(t *mapTemps) { s.temps.Put(t) }
