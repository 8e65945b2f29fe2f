package codec

import (
	"encoding/binary"
	"math"
	"reflect"
	"time"
	"unsafe"
)

// append appends the variable at from in the format of msgpack. Integers
// outside of any are compact.
func (p *program) append(dst []byte, from unsafe.Pointer) ([]byte, error) {
	b := p.top.append(dst, from)
	if len(b) > maxEncoded {
		return dst, errEncodedTooLarge
	}
	return b, nil
}

// The steps panic with a *failure as soon as they know that the value cannot be
// encoded. A return value would have to pass through every step of every value.
// catchAppend turns the panic into the error of Append.

// fit panics if b cannot grow by n. It is called before each string and each
// container, since a value may hold the same container many times.
func fit(b []byte, n int) {
	if n > maxEncoded-len(b) {
		panic(errEncodedTooLarge)
	}
}

// append appends the variable at p. See [step] for the rules on p.
func (s *step) append(b []byte, p unsafe.Pointer) []byte {
	switch s.op {
	case opBool:
		if *(*bool)(p) {
			return append(b, 0xc3)
		}
		return append(b, 0xc2)
	case opInt8:
		return appendInt(b, int64(*(*int8)(p)))
	case opInt16:
		return appendInt(b, int64(*(*int16)(p)))
	case opInt32:
		return appendInt(b, int64(*(*int32)(p)))
	case opInt64:
		return appendInt(b, *(*int64)(p))
	case opUint8:
		return appendUint(b, uint64(*(*uint8)(p)))
	case opUint16:
		return appendUint(b, uint64(*(*uint16)(p)))
	case opUint32:
		return appendUint(b, uint64(*(*uint32)(p)))
	case opUint64:
		return appendUint(b, *(*uint64)(p))
	case opFloat32:
		return binary.BigEndian.AppendUint32(append(b, 0xca), quiet(math.Float32bits(*(*float32)(p))))
	case opFloat64:
		return binary.BigEndian.AppendUint64(append(b, 0xcb), math.Float64bits(*(*float64)(p)))
	case opString:
		str := *(*string)(p)
		fit(b, len(str))
		return append(appendTextHead(b, len(str)), str...)
	case opBytes:
		bytes := *(*[]byte)(p)
		if bytes == nil {
			return append(b, codeNil)
		}
		fit(b, len(bytes))
		return append(appendBytesHead(b, len(bytes)), bytes...)
	case opByteArray:
		fit(b, s.n)
		return append(appendBytesHead(b, s.n), unsafe.Slice((*byte)(p), s.n)...)
	case opTime:
		return appendTime(b, *(*time.Time)(p))
	case opPointer:
		to := *(*unsafe.Pointer)(p)
		if to == nil {
			return append(b, codeNil)
		}
		begin := len(b)
		if b = s.elem.append(b, to); s.strict && b[begin] == codeNil {
			panic(errPointerToNil)
		}
		return b
	case opSlice:
		return s.appendSlice(b, p)
	case opArray:
		return s.appendElements(b, p, s.n)
	case opMap:
		return s.appendMap(b, p)
	case opStruct:
		return s.appendStruct(b, p)
	case opLeaf:
		return s.appendLeaf(b, p)
	case opAny:
		return appendAny(b, *(*any)(p))
	case opWide:
		return appendWide(b, reflect.NewAt(s.typ, p).Elem())
	case opKeyTime:
		return appendKeyTime(b, *(*time.Time)(p))
	default:
		return appendKeyAny(b, *(*any)(p))
	}
}

var (
	errPointerToNil = cannotEncode("a pointer to nil would come back as nil", nil)
	errKeyTime      = cannotEncode("a time that is a map key would come back as another key: it must be in UTC and without a monotonic reading", nil)
	errKeyAny       = cannotEncode("a map key in an any would come back as another type", nil)
	errKeysAlike    = cannotEncode("two keys of a map are encoded alike", nil)
	errKeyUnfit     = cannotEncode("a map in an any has keys that would come back as slices, maps or bytes", nil)
)

func (s *step) appendSlice(b []byte, p unsafe.Pointer) []byte {
	// All slices have the same header, and only the header is read as that of a
	// []byte.
	bytes := *(*[]byte)(p)
	if bytes == nil {
		return append(b, codeNil)
	}
	return s.appendElements(b, unsafe.Pointer(unsafe.SliceData(bytes)), len(bytes))
}

func (s *step) appendElements(b []byte, first unsafe.Pointer, n int) []byte {
	fit(b, n)
	b = appendHead(b, n, 0x90, 0xdc)
	for i := range n {
		b = s.elem.append(b, unsafe.Add(first, uintptr(i)*s.elem.size))
	}
	return b
}

// appendMap appends the entries in the order of their encoded keys, so equal
// maps have equal bytes.
func (s *step) appendMap(b []byte, p unsafe.Pointer) []byte {
	m := reflect.NewAt(s.typ, p).Elem()
	if m.IsNil() {
		return append(b, codeNil)
	}
	fit(b, m.Len())
	b = appendHead(b, m.Len(), 0x80, 0xde)
	t := s.getTemps()
	begin := len(b)
	for iter := m.MapRange(); iter.Next(); {
		from := len(b)
		t.key.SetIterKey(iter)
		t.elem.SetIterValue(iter)
		b = s.key.append(b, t.key.Addr().UnsafePointer())
		if s.wide {
			b = keyInAny(b, from, s.key.op == opAny)
		}
		keyEnd := len(b)
		b = s.elem.append(b, t.elem.Addr().UnsafePointer())
		t.entries.add(from, keyEnd, len(b))
	}
	b = t.entries.sort(b, begin)
	t.key.SetZero()
	t.elem.SetZero()
	s.putTemps(t)
	return b
}

func (s *step) appendStruct(b []byte, p unsafe.Pointer) []byte {
	fit(b, 1)
	n := len(s.fields)
	if s.array {
		b = appendHead(b, n, 0x90, 0xdc)
		for i := range s.fields {
			f := &s.fields[i]
			b = f.step.append(b, unsafe.Add(p, f.offset))
		}
		return b
	}
	if s.omits {
		for i := range s.fields {
			if s.fields[i].omitted(p) {
				n--
			}
		}
	}
	b = appendHead(b, n, 0x80, 0xde)
	for i := range s.fields {
		f := &s.fields[i]
		if s.omits && f.omitted(p) {
			continue
		}
		b = append(b, f.key...)
		b = f.step.append(b, f.at(p))
	}
	return b
}

// omitted reports whether the field is left out of the struct at p.
func (f *stepField) omitted(p unsafe.Pointer) bool {
	at := f.at(p)
	return at == nil || f.omit && f.step.empty(at)
}

// empty reports whether omitempty leaves out the variable at p, that is,
// whether it is zero. A value that is empty but not zero, such as an empty
// slice, -0 or an any with a 0, would not come back.
func (s *step) empty(p unsafe.Pointer) bool {
	switch s.op {
	case opBool:
		return !*(*bool)(p)
	case opInt8, opUint8:
		return *(*uint8)(p) == 0
	case opInt16, opUint16:
		return *(*uint16)(p) == 0
	case opInt32, opUint32, opFloat32:
		return *(*uint32)(p) == 0
	case opInt64, opUint64, opFloat64:
		return *(*uint64)(p) == 0
	case opString:
		return *(*string)(p) == ""
	case opBytes, opSlice:
		return *(*[]byte)(p) == nil
	case opByteArray, opArray:
		return s.n == 0
	case opMap, opPointer:
		return *(*unsafe.Pointer)(p) == nil
	case opTime, opKeyTime:
		return (*time.Time)(p).IsZero()
	case opAny, opKeyAny:
		return *(*any)(p) == nil
	case opLeaf, opWide:
		v := reflect.NewAt(s.typ, p).Elem()
		if v.Kind() == reflect.Array { // as msgpack does
			return v.Len() == 0
		}
		return v.IsZero()
	default: // a struct is empty if all its fields are omitted
		for i := range s.fields {
			if !s.fields[i].omitted(p) {
				return false
			}
		}
		return true
	}
}

func appendInt(b []byte, n int64) []byte {
	switch {
	case n >= 0:
		return appendUint(b, uint64(n))
	case n >= -32:
		return append(b, byte(n))
	case n >= math.MinInt8:
		return append(b, 0xd0, byte(n))
	case n >= math.MinInt16:
		return binary.BigEndian.AppendUint16(append(b, 0xd1), uint16(n))
	case n >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(n))
}

func appendUint(b []byte, n uint64) []byte {
	switch {
	case n <= math.MaxInt8:
		return append(b, byte(n))
	case n <= math.MaxUint8:
		return append(b, 0xcc, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, 0xcd), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xcf), n)
}

// appendHead appends the head of an array or a map of n. code16 is the code
// with a 16-bit length.
func appendHead(b []byte, n int, fixed, code16 byte) []byte {
	switch {
	case n < 16:
		return append(b, fixed|byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, code16), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, code16+1), uint32(n))
}

func appendTextHead(b []byte, n int) []byte {
	if n < 32 {
		return append(b, 0xa0|byte(n))
	}
	return appendLength(b, n, 0xd9)
}

func appendBytesHead(b []byte, n int) []byte { return appendLength(b, n, 0xc4) }

// appendLength appends the head of n bytes or, with another code8, of a string.
func appendLength(b []byte, n int, code8 byte) []byte {
	switch {
	case n <= math.MaxUint8:
		return append(b, code8, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, code8+1), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, code8+2), uint32(n))
}

// appendTime appends t in the shortest of the three forms that hold it.
func appendTime(b []byte, t time.Time) []byte {
	const id = 0xff // -1
	seconds, nanos := uint64(t.Unix()), uint64(t.Nanosecond())
	switch {
	case seconds>>32 == 0 && nanos == 0:
		return binary.BigEndian.AppendUint32(append(b, 0xd6, id), uint32(seconds))
	case seconds>>34 == 0:
		return binary.BigEndian.AppendUint64(append(b, 0xd7, id), nanos<<34|seconds)
	}
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(append(b, 0xc7, 12, id), uint32(nanos)), seconds)
}
