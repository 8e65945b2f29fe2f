package codec

import (
	"encoding/binary"
	"reflect"
	"strings"
	"sync"
	"time"
	"unsafe"
)

// read sets the variable that to points to, which is zero, to the value in src.
// If read is unsure of src, ok is false, and the variable is unusable. spent is
// the number of bytes allocated, in the sense of allocLimit.
//
// No check precedes it. It bounds depth and memory by the same figures as
// check, while it reads. It never goes back, so it takes time in proportion to
// src, even if it turns out to be unsure at the end.
func (p *program) read(src []byte, to unsafe.Pointer) (ok bool, spent int64) {
	if len(src) == 0 || src[0] == codeNil && !p.nullable {
		return false, 0
	}
	r := readers.Get().(*reader)
	limit := allocLimit(src)
	r.src, r.left = src, limit
	ok = r.value(p.top, to, 0) == len(src)
	if ok {
		r.settle()
	}
	spent = limit - r.left
	clear(r.kept[:r.n]) // otherwise the pool would keep the value
	r.src, r.n, r.size, r.depth = nil, 0, 0, 0
	readers.Put(r)
	return ok, spent
}

// reader holds the state of one read, of any type.
//
// Its methods return the end of the value at pos, or lost. pos may be lost too.
// A variable is zero before and is written at most once: a reader does not
// handle a field that occurs twice. So nil, which leaves a variable unchanged,
// leaves it zero.
type reader struct {
	src   []byte
	depth int   // containers around the current value
	left  int64 // bytes that may still be allocated

	// kept collects short strings, which become parts of one string: one
	// allocation instead of many. Strings do not change, so they can share that
	// one forever. They cannot share src, which may change.
	//
	// The price is that a caller that keeps one of these strings keeps them
	// all. So their total length is limited. Long strings are worth an
	// allocation each and stay separate.
	kept [64]keptString
	n    int // number of kept strings
	size int // bytes in them
}

type keptString struct {
	to        *string
	from, end int // positions in src
}

const (
	maxKept       = 256  // length of a string that is kept
	maxKeptString = 1024 // total length of strings that share memory
)

const lost = -1

var readers = sync.Pool{New: func() any { return new(reader) }}

// keep sets *to to src[from:end], either now or when the reader settles.
func (r *reader) keep(to *string, from, end int) {
	size := end - from
	if size > maxKept {
		*to = string(r.src[from:end])
		return
	}
	if r.n == len(r.kept) || r.size+size > maxKeptString {
		r.settle()
	}
	r.kept[r.n] = keptString{to, from, end}
	r.n++
	r.size += size
}

// settle makes the kept strings.
func (r *reader) settle() {
	var all strings.Builder
	all.Grow(r.size)
	for i := range r.kept[:r.n] {
		k := &r.kept[i]
		begin := all.Len()
		all.Write(r.src[k.from:k.end])
		*k.to = all.String()[begin:]
	}
	clear(r.kept[:r.n])
	r.n, r.size = 0, 0
}

// value reads the value at pos into the variable at p, as s describes.
func (r *reader) value(s *step, p unsafe.Pointer, pos int) int {
	if uint(pos) >= uint(len(r.src)) {
		return lost
	}
	c := r.src[pos]
	if c == codeNil {
		switch s.op {
		case opTime, opKeyTime:
			return lost // msgpack panics here
		case opLeaf:
			return r.leaf(s, p, pos)
		}
		return pos + 1
	}
	switch s.op {
	case opBool:
		if c&0xfe != 0xc2 {
			return lost
		}
		*(*bool)(p) = c == 0xc3
		return pos + 1
	case opInt8:
		n, next := r.signed(pos, 8)
		*(*int8)(p) = int8(n)
		return next
	case opInt16:
		n, next := r.signed(pos, 16)
		*(*int16)(p) = int16(n)
		return next
	case opInt32:
		n, next := r.signed(pos, 32)
		*(*int32)(p) = int32(n)
		return next
	case opInt64:
		n, next := r.signed(pos, 64)
		*(*int64)(p) = n
		return next
	case opUint8:
		n, next := r.unsigned(pos, 8)
		*(*uint8)(p) = uint8(n)
		return next
	case opUint16:
		n, next := r.unsigned(pos, 16)
		*(*uint16)(p) = uint16(n)
		return next
	case opUint32:
		n, next := r.unsigned(pos, 32)
		*(*uint32)(p) = uint32(n)
		return next
	case opUint64:
		n, next := r.unsigned(pos, 64)
		*(*uint64)(p) = n
		return next
	case opFloat32:
		f, next := r.float32(pos)
		*(*float32)(p) = f
		return next
	case opFloat64:
		f, next := r.float64(pos)
		*(*float64)(p) = f
		return next
	case opString:
		from, end := r.text(pos)
		if end != lost && from < end {
			r.keep((*string)(p), from, end)
		}
		return end
	case opBytes:
		from, end := r.text(pos)
		if end != lost {
			b := make([]byte, end-from)
			copy(b, r.src[from:end])
			*(*[]byte)(p) = b
		}
		return end
	case opByteArray:
		from, end := r.text(pos)
		if end == lost || end-from > s.n {
			return lost
		}
		copy(unsafe.Slice((*byte)(p), s.n), r.src[from:end])
		return end
	case opTime:
		return r.time((*time.Time)(p), pos)
	case opPointer:
		return r.pointer(s, p, pos)
	case opSlice:
		return r.slice(s, p, pos)
	case opArray:
		return r.array(s, p, pos)
	case opMap:
		return r.pairs(s, p, pos)
	case opStruct:
		return r.fields(s, p, pos)
	case opLeaf:
		return r.leaf(s, p, pos)
	case opAny:
		return r.any((*any)(p), pos)
	case opKeyTime:
		return r.time((*time.Time)(p), pos)
	case opKeyAny:
		next := r.any((*any)(p), pos)
		if next != lost && !canBeKey(*(*any)(p)) {
			return lost
		}
		return next
	default: // opWide: no value is decoded into the original type of an any
		return lost
	}
}

// spend deducts n bytes from the limit. It reports false if too few are left.
func (r *reader) spend(n int64) bool {
	if n > r.left {
		return false
	}
	r.left -= n
	return true
}

func (r *reader) pointer(s *step, p unsafe.Pointer, pos int) int {
	if !r.spend(s.base) {
		return lost
	}
	to := reflect.New(s.elem.typ).UnsafePointer()
	*(*unsafe.Pointer)(p) = to
	return r.value(s.elem, to, pos)
}

func (r *reader) slice(s *step, p unsafe.Pointer, pos int) int {
	n, pos := r.items(pos, 0x90, 0xdc, 1)
	if pos == lost || r.depth == maxDepth || !r.spend(s.each*int64(n)) {
		return lost
	}
	var first unsafe.Pointer
	if s.elem.op == opString {
		strs := make([]string, n)
		*(*[]string)(p) = strs
		first = unsafe.Pointer(unsafe.SliceData(strs))
	} else if v := reflect.NewAt(s.typ, p).Elem(); n > 0 {
		v.Grow(n)
		v.SetLen(n)
		first = v.UnsafePointer()
	} else {
		v.Set(reflect.MakeSlice(s.typ, 0, 0))
	}
	return r.elements(s.elem, first, n, pos)
}

func (r *reader) array(s *step, p unsafe.Pointer, pos int) int {
	n, pos := r.items(pos, 0x90, 0xdc, 1)
	if pos == lost || r.depth == maxDepth || n > s.n {
		return lost
	}
	return r.elements(s.elem, p, n, pos)
}

// elements reads n values, starting at pos. The first goes to the variable at
// first.
func (r *reader) elements(s *step, first unsafe.Pointer, n, pos int) int {
	r.depth++
	for i := range n {
		if pos = r.value(s, unsafe.Add(first, uintptr(i)*s.size), pos); pos == lost {
			return lost
		}
	}
	r.depth--
	return pos
}

func (r *reader) pairs(s *step, p unsafe.Pointer, pos int) int {
	n, pos := r.items(pos, 0x80, 0xde, 2)
	if pos == lost || r.depth == maxDepth || !r.spend(s.base+s.each*int64(n)) {
		return lost
	}
	m := reflect.NewAt(s.typ, p).Elem()
	m.Set(reflect.MakeMapWithSize(s.typ, n))
	r.depth++
	t := s.getTemps()
	for range n {
		pos = r.value(s.key, t.key.Addr().UnsafePointer(), pos)
		if pos = r.value(s.elem, t.elem.Addr().UnsafePointer(), pos); pos == lost {
			return lost // the temps are not zero, and are not put back
		}
		r.settle() // before the strings are copied into the map
		m.SetMapIndex(t.key, t.elem)
		t.key.SetZero()
		t.elem.SetZero()
	}
	s.putTemps(t)
	r.depth--
	return pos
}

func (r *reader) fields(s *step, p unsafe.Pointer, pos int) int {
	if s.array {
		if n, first := r.items(pos, 0x90, 0xdc, 1); first != lost {
			return r.arrayFields(s, p, n, first)
		}
	}
	n, pos := r.items(pos, 0x80, 0xde, 2)
	if pos == lost || r.depth == maxDepth {
		return lost
	}
	r.depth++
	next, seen := 0, uint64(0)
	for range n {
		// Usually the fields come in order.
		i := next
		if f := s.fieldAt(i); f != nil && pos+len(f.key) <= len(r.src) && string(r.src[pos:pos+len(f.key)]) == f.key {
			pos += len(f.key)
		} else {
			from, end := r.text(pos)
			if end == lost {
				return lost
			}
			known := false
			if i, known = s.byName[string(r.src[from:end])]; !known {
				if pos = r.skip(end); pos == lost {
					return lost
				}
				continue
			}
			if i == unsure {
				return lost
			}
			pos = end
		}
		// A repeated field is refused, since the second value may be merged
		// with the first. With more than 64 fields, seen is too small, so the
		// fields must come in order, which also excludes repeats.
		if seen>>i&1 != 0 || len(s.fields) > 64 && i < next {
			return lost
		}
		seen |= 1 << i
		next = i + 1
		f := &s.fields[i]
		var to unsafe.Pointer
		if f.hops == nil {
			to = unsafe.Add(p, f.offset)
		} else if to = r.reach(f, p); to == nil {
			return lost
		}
		if pos = r.value(f.step, to, pos); pos == lost {
			return lost
		}
	}
	r.depth--
	return pos
}

// reach returns the address of the field f in the struct at p. It allocates the
// embedded structs on the way, and returns nil if they would cost too much.
func (r *reader) reach(f *stepField, p unsafe.Pointer) unsafe.Pointer {
	for i := range f.hops {
		h := &f.hops[i]
		at := (*unsafe.Pointer)(unsafe.Add(p, h.offset))
		if *at == nil {
			if !r.spend(h.cost) {
				return nil
			}
			*at = reflect.New(h.typ).UnsafePointer()
		}
		p = *at
	}
	return unsafe.Add(p, f.offset)
}

// arrayFields reads a struct that is stored as an array of n.
func (r *reader) arrayFields(s *step, p unsafe.Pointer, n, pos int) int {
	if n != len(s.fields) || r.depth == maxDepth {
		return lost
	}
	r.depth++
	for i := range s.fields {
		f := &s.fields[i]
		if pos = r.value(f.step, unsafe.Add(p, f.offset), pos); pos == lost {
			return lost
		}
	}
	r.depth--
	return pos
}

func (s *step) fieldAt(i int) *stepField {
	if i < len(s.fields) {
		return &s.fields[i]
	}
	return nil
}

// skip returns the end of the value at pos, or lost if it is unsound or too
// deep.
func (r *reader) skip(pos int) int {
	s := scan{src: r.src}
	if end := s.run(pos, 1, r.depth); s.err == nil {
		return end
	}
	return lost
}

// items returns the number of elements of an array, or pairs of a map, and the
// start of the first. Each item has as many values as each says. code16 is the
// code with a 16-bit length, and the code with a 32-bit length follows it.
// items returns lost if there are more values than bytes.
func (r *reader) items(pos int, fixed, code16 byte, each int) (n, next int) {
	b := r.src[pos:]
	items := uint64(0)
	switch c := b[0]; {
	case c&0xf0 == fixed:
		items, next = uint64(c&0x0f), 1
	case c == code16 && len(b) >= 3:
		items, next = uint64(binary.BigEndian.Uint16(b[1:])), 3
	case c == code16+1 && len(b) >= 5:
		items, next = uint64(binary.BigEndian.Uint32(b[1:])), 5
	default:
		return 0, lost
	}
	if items*uint64(each) > uint64(len(b)-next) {
		return 0, lost
	}
	return int(items), pos + next
}

// text returns the start and the end of the string or the bytes at pos.
func (r *reader) text(pos int) (from, end int) {
	if uint(pos) >= uint(len(r.src)) {
		return 0, lost
	}
	b := r.src[pos:]
	size := uint64(0)
	switch c := b[0]; {
	case c&0xe0 == 0xa0:
		size, from = uint64(c&0x1f), 1
	case (c == 0xd9 || c == 0xc4) && len(b) >= 2:
		size, from = uint64(b[1]), 2
	case (c == 0xda || c == 0xc5) && len(b) >= 3:
		size, from = uint64(binary.BigEndian.Uint16(b[1:])), 3
	case (c == 0xdb || c == 0xc6) && len(b) >= 5:
		size, from = uint64(binary.BigEndian.Uint32(b[1:])), 5
	default:
		return 0, lost
	}
	if size > uint64(len(b)-from) {
		return 0, lost
	}
	return pos + from, pos + from + int(size)
}
