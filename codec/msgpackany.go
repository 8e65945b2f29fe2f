package codec

import (
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// appendAny appends x, the value in an any, as msgpack does with integers of
// full width. So integers come back as the type they were. The caller has
// checked x for cycles.
func appendAny(b []byte, x any) []byte {
	switch x := x.(type) {
	case nil:
		return append(b, codeNil)
	case bool:
		if x {
			return append(b, 0xc3)
		}
		return append(b, 0xc2)
	case string:
		fit(b, len(x))
		return append(appendTextHead(b, len(x)), x...)
	case int:
		return appendInt(b, int64(x))
	case int64:
		return appendInt64(b, x)
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 0xcb), math.Float64bits(x))
	case []any:
		if x == nil {
			return append(b, codeNil)
		}
		fit(b, len(x))
		b = appendHead(b, len(x), 0x90, 0xdc)
		for _, e := range x {
			b = appendAny(b, e)
		}
		return b
	case map[string]any:
		if x == nil {
			return append(b, codeNil)
		}
		return appendMapOfAny(b, x)
	}
	t := reflect.TypeOf(x)
	p := dynamicProgram(t)
	v := reflect.New(t)
	v.Elem().Set(reflect.ValueOf(x))
	return p.top.append(b, v.UnsafePointer())
}

func appendMapOfAny(b []byte, m map[string]any) []byte {
	fit(b, len(m))
	b = appendHead(b, len(m), 0x80, 0xde)
	e := entriesPool.Get().(*entries)
	begin := len(b)
	for k, v := range m {
		from := len(b)
		fit(b, len(k))
		b = append(appendTextHead(b, len(k)), k...)
		keyEnd := len(b)
		b = appendAny(b, v)
		e.add(from, keyEnd, len(b))
	}
	b = e.sort(b, begin)
	entriesPool.Put(e)
	return b
}

func appendInt64(b []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(n))
}

// appendWide appends an integer of a fixed size in that size.
func appendWide(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Int8:
		return append(b, 0xd0, byte(v.Int()))
	case reflect.Int16:
		return binary.BigEndian.AppendUint16(append(b, 0xd1), uint16(v.Int()))
	case reflect.Int32:
		return binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(v.Int()))
	case reflect.Int64:
		return appendInt64(b, v.Int())
	case reflect.Uint8:
		return append(b, 0xcc, byte(v.Uint()))
	case reflect.Uint16:
		return binary.BigEndian.AppendUint16(append(b, 0xcd), uint16(v.Uint()))
	case reflect.Uint32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(v.Uint()))
	default:
		return binary.BigEndian.AppendUint64(append(b, 0xcf), v.Uint())
	}
}

// appendKeyTime appends a time that is a map key. Map keys are compared by ==,
// which also compares zones and monotonic readings.
func appendKeyTime(b []byte, t time.Time) []byte {
	if t != time.Unix(t.Unix(), int64(t.Nanosecond())).UTC() {
		panic(errKeyTime)
	}
	return appendTime(b, t)
}

// appendKeyAny appends a map key in an any, if it comes back as an equal key of
// the same type.
func appendKeyAny(b []byte, x any) []byte {
	switch x := x.(type) {
	case nil, bool, string, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64:
		return appendAny(b, x)
	case time.Time:
		return appendKeyTime(b, x)
	}
	panic(errKeyAny)
}

// keyInAny checks the map key in b[begin:], which comes back as the key of a
// map[string]any or map[any]any. It panics if the decoded key could not be a
// map key. An int and an int8 come back as the same key, so if mixed is true
// they are encoded alike.
func keyInAny(b []byte, begin int, mixed bool) []byte {
	c := b[begin]
	if codes[c].class >= classItems || isBin(c) {
		panic(errKeyUnfit)
	}
	if mixed && c == 0xd0 && (b[begin+1] < 0x80 || b[begin+1] >= 0xe0) {
		return append(b[:begin], b[begin+1])
	}
	return b
}

// dynamicPrograms holds the programs of types that were found in an any. A
// program is compiled when its type is first met. Like dynamicShapes, the map
// never shrinks.
var dynamicPrograms sync.Map // reflect.Type to *program

func dynamicProgram(t reflect.Type) *program {
	if p, ok := dynamicPrograms.Load(t); ok {
		return p.(*program)
	}
	s, err := dynamicShape(t, false)
	if err != nil {
		panic(cannotEncode(err.msg, err))
	}
	p, _ := dynamicPrograms.LoadOrStore(t, compile(t, &plan{top: s, nullable: true}, true))
	return p.(*program)
}

// any reads the value at pos, whatever its type.
func (r *reader) any(to *any, pos int) int {
	end := r.skip(pos)
	if end == lost || !r.spend(int64(end-pos)*anyCost) {
		return lost
	}
	x, next := r.scanned(pos)
	*to = x
	return next
}

// scanned returns the value at pos, which is sound, as the type that msgpack
// decodes to. Times are in UTC. A map with a key that is not a string is a
// map[any]any.
func (r *reader) scanned(pos int) (x any, next int) {
	c := r.src[pos]
	code := &codes[c]
	switch {
	case c < 0x80, c >= 0xe0:
		return int8(c), pos + 1
	case isText(c):
		from, end := r.text(pos)
		return string(r.src[from:end]), end
	case c&0xf0 == 0x80, c == 0xde, c == 0xdf:
		return r.mapInAny(pos)
	case c&0xf0 == 0x90, c == 0xdc, c == 0xdd:
		n, pos := r.items(pos, 0x90, 0xdc, 1)
		all := make([]any, n)
		for i := range all {
			if all[i], pos = r.scanned(pos); pos == lost {
				return nil, lost
			}
		}
		return all, pos
	}
	next = pos + int(code.size)
	b := r.src[pos:]
	switch c {
	case codeNil:
		return nil, next
	case 0xc2, 0xc3:
		return c == 0xc3, next
	case 0xc4, 0xc5, 0xc6:
		from, end := r.text(pos)
		return append(make([]byte, 0, end-from), r.src[from:end]...), end
	case 0xca:
		return math.Float32frombits(binary.BigEndian.Uint32(b[1:])), next
	case 0xcb:
		return math.Float64frombits(binary.BigEndian.Uint64(b[1:])), next
	case 0xcc:
		return b[1], next
	case 0xcd:
		return binary.BigEndian.Uint16(b[1:]), next
	case 0xce:
		return binary.BigEndian.Uint32(b[1:]), next
	case 0xcf:
		return binary.BigEndian.Uint64(b[1:]), next
	case 0xd0:
		return int8(b[1]), next
	case 0xd1:
		return int16(binary.BigEndian.Uint16(b[1:])), next
	case 0xd2:
		return int32(binary.BigEndian.Uint32(b[1:])), next
	case 0xd3:
		return int64(binary.BigEndian.Uint64(b[1:])), next
	}
	// The value is an extension: a time, or a type registered with msgpack.
	var t time.Time
	if next = r.time(&t, pos); next != lost {
		return t, next
	}
	next = r.skip(pos)
	if next == lost || decodeMsgpack(r.src[pos:next], &x) != nil {
		return nil, lost
	}
	return inUTC(x), next
}

// mapInAny reads the map at pos as a map[string]any, or as a map[any]any if a
// key is not a string.
func (r *reader) mapInAny(pos int) (any, int) {
	n, pos := r.items(pos, 0x80, 0xde, 2)
	byString := make(map[string]any, n)
	for i := range n {
		if c := r.src[pos]; !isText(c) && !isBin(c) {
			return r.mapByAny(byString, n-i, pos)
		}
		from, end := r.text(pos)
		x, next := r.scanned(end)
		if next == lost {
			return nil, lost
		}
		byString[string(r.src[from:end])] = x
		pos = next
	}
	return byString, pos
}

// mapByAny reads n further entries of a map.
func (r *reader) mapByAny(byString map[string]any, n, pos int) (any, int) {
	all := make(map[any]any, len(byString)+n)
	for k, x := range byString {
		all[k] = x
	}
	for range n {
		k, next := r.scanned(pos)
		if next == lost || !canBeKey(k) {
			return nil, lost
		}
		x, next := r.scanned(next)
		if next == lost {
			return nil, lost
		}
		all[k], pos = x, next
	}
	return all, pos
}

func isText(c byte) bool { return c&0xe0 == 0xa0 || c == 0xd9 || c == 0xda || c == 0xdb }

func isBin(c byte) bool { return c == 0xc4 || c == 0xc5 || c == 0xc6 }

// canBeKey reports whether k can be the key of a map[any]any. It looks k up in
// one, because reflect.Value.Comparable reports true for every array without
// elements.
func canBeKey(k any) (ok bool) {
	defer func() { ok = recover() == nil }()
	_ = map[any]struct{}(nil)[k]
	return true
}

var errNotAKey = errors.New("msgpack: a map with a slice or a map as a key")

// decodeMapInAny is mapInAny for msgpack, which accepts only strings as keys.
func decodeMapInAny(d *msgpack.Decoder) (any, error) {
	n, err := d.DecodeMapLen()
	if err != nil || n < 0 {
		return nil, err
	}
	byString := make(map[string]any, n)
	var byAny map[any]any
	for range n {
		c, err := d.PeekCode()
		if err != nil {
			return nil, err
		}
		isString := isText(c) || isBin(c)
		if !isString && byAny == nil {
			byAny = make(map[any]any, n)
			for k, x := range byString {
				byAny[k] = x
			}
		}
		var k any
		if isString && byAny == nil {
			k, err = d.DecodeString()
		} else {
			k, err = d.DecodeInterface()
		}
		if err != nil {
			return nil, err
		}
		x, err := d.DecodeInterface()
		switch {
		case err != nil:
			return nil, err
		case byAny == nil:
			byString[k.(string)] = x
		case !canBeKey(k):
			return nil, errNotAKey
		default:
			byAny[k] = x
		}
	}
	if byAny != nil {
		return byAny, nil
	}
	return byString, nil
}
