package codec

import (
	"encoding/binary"
	"reflect"
)

// A Decode of MessagePack may allocate maxAllocFactor bytes for each byte of
// src, or minAllocLimit bytes if that is more. The factor exceeds the cost of
// the smallest maps in an any, which is the highest cost for which no type of V
// is responsible.
const (
	maxAllocFactor = 256
	minAllocLimit  = 4 << 20
)

var (
	errAllocTooLarge = badFormat("MessagePack: decoding would take too much memory", ErrTooLarge)
	errExtForMap     = badFormat("MessagePack: an extension in place of a map", nil)
	errNil           = badFormat("MessagePack: nil, and the type has no nil", nil)
	errEmptyArray    = badFormat("MessagePack: an empty array in place of a struct", nil)
)

// plan describes a type, for checks that MessagePack makes before it sees a
// value.
type plan struct {
	top *shape

	nullable bool  // nil at the top level is a value
	compact  bool  // no any: integers may lose their width
	nests    bool  // check for cycles before encoding
	verify   bool  // check encoded bytes: Decode might not accept them
	suspect  facts // facts that require comparing bytes with the type
	costly   int64 // most bytes that decoding one MessagePack value may allocate
}

// newPlan returns the plan for t, or an error that says why t cannot be
// encoded.
func newPlan(t reflect.Type) (*plan, *failure) {
	top, all, err := newShape(t, false)
	if err != nil {
		return nil, err
	}
	p := &plan{top: top, nullable: nilable(t) || top.kind == shapeOpaque, compact: true, nests: top.nests}
	// costly is the greatest cost that this type allows, whatever its
	// structure. It adds up a pointer's target, a map, and an element of a
	// slice. For most types that is far too much. If the bytes are megabytes,
	// they are then compared with the type, and may prove cheap. Otherwise the
	// comparison is not needed.
	var slot, base, pointers int64
	for _, s := range all {
		p.suspect |= s.suspects()
		switch s.kind {
		case shapeOpaque:
			p.verify = true
		case shapeAny:
			p.compact = false
		case shapePointer:
			pointers += pointerCost(s)
		case shapeSlice:
			slot = max(slot, sliceCost(s, 1))
		case shapeMap:
			base = max(base, mapCost(s, 0))
			slot = max(slot, mapCost(s, 1)-mapCost(s, 0))
		case shapeStruct:
			for _, f := range s.fields {
				pointers += f.cost
			}
		}
	}
	p.costly = slot + base + pointers
	p.verify = p.verify || p.nests || p.costly > maxAllocFactor
	return p, nil
}

// suspects returns the facts that show an integer that may not fit s or, for
// maps, an extension. msgpack takes an extension for the header of a map, whose
// length it then reads from bytes that were not scanned as a header.
func (s *shape) suspects() facts {
	// These codes hold more than a type of so many bits, signed or unsigned.
	// For 8 and 16 bits the codes depend on the sign and are spelled out.
	const over32, over16 = sawUint64 | sawHuge | sawInt64, sawUint32 | sawInt32
	switch {
	case s.kind == shapeMap:
		return sawExt
	case s.kind == shapeUint && s.bits == 64:
		return sawNegative
	case s.kind == shapeUint && s.bits == 32:
		return sawNegative | over32
	case s.kind == shapeUint && s.bits == 16:
		return sawNegative | over32 | over16
	case s.kind == shapeUint:
		return sawNegative | over32 | over16 | sawUint16 | sawInt16
	case s.kind == shapeInt && s.bits == 64:
		return sawHuge
	case s.kind == shapeInt && s.bits == 32:
		return over32 | sawUint32
	case s.kind == shapeInt && s.bits == 16:
		return over32 | over16 | sawUint16
	case s.kind == shapeInt:
		return over32 | over16 | sawUint16 | sawInt16 | sawUint8
	}
	return 0
}

// pointerCost, sliceCost and mapCost are upper bounds of the bytes that msgpack
// and Go 1.24 and later allocate. Sizes are rounded up to a size class. A slice
// is made twice. A map has at least 8 slots and in the worst case uses 7 of 16.
// Keys and values above 128 bytes are allocated separately. One key and one
// value are made to be copied into the map.
func pointerCost(s *shape) int64 { return rounded(s.elem.size) }

func sliceCost(s *shape, n int) int64 { return int64(n) * (s.elem.size*9/4 + 1) }

func mapCost(s *shape, n int) int64 {
	slot, apart := int64(1), int64(0)
	for _, part := range []*shape{s.key, s.elem} {
		apart += rounded(part.size)
		if part.size > 128 {
			slot += 8
			apart += rounded(part.size)
		} else {
			slot += part.size
		}
	}
	return 64 + 8*slot + int64(n)*(3*slot+apart)
}

func rounded(size int64) int64 { return size*9/8 + 16 }

// anyCost is the highest cost of an any for a byte: nested maps of one entry.
const anyCost = 176

// check refuses bytes that msgpack must not see. It does not allocate. spent is
// the number of bytes that an earlier attempt to decode them allocated, and
// counts against the limit.
//
// Most bytes pass after one scan that ignores the type. Only if the scan saw
// facts that might not fit the type are the bytes compared with it, value by
// value.
func (p *plan) check(src []byte, spent int64) error {
	var s scan
	if err := s.all(src); err != nil {
		return err
	}
	switch {
	// msgpack turns both into the zero value, as if a writer had stored that.
	case src[0] == codeNil && !p.nullable:
		return errNil
	case src[0] == 0x90 && p.top.kind == shapeStruct && len(p.top.fields) > 0:
		return errEmptyArray
	}
	// In the common case the bytes pass here. Even if every byte is a value of
	// the greatest cost, the total is small, and no integer can be too large.
	limit := allocLimit(src) - spent
	if s.saw&p.suspect == 0 && int64(s.values) <= limit/max(p.costly, 1) {
		return nil
	}
	c := comparison{scan: scan{src: src}, limit: limit}
	c.value(p.top, 0)
	return c.err
}

// allocLimit is the number of bytes that decoding src may allocate.
func allocLimit(src []byte) int64 { return max(minAllocLimit, int64(len(src))*maxAllocFactor) }

// comparison walks scanned bytes along a shape. Where the two do not match it
// goes on, since the decoder reports that well enough. It stops only at bytes
// that the decoder wrongly accepts.
type comparison struct {
	scan
	limit int64 // bytes that may still be allocated
}

// value compares the value at pos with s and returns its end.
func (c *comparison) value(s *shape, pos int) int {
	if c.err != nil {
		return pos
	}
	first := c.src[pos]
	if first == codeNil {
		return pos + 1 // the zero value of every type, and allocates nothing
	}
	switch s.kind {
	case shapeInt, shapeUint:
		if n, neg, ok := integer(c.src[pos:]); ok && !fits(s.kind == shapeInt, s.bits, n, neg) {
			c.err = errOutOfRange
		}
	case shapePointer:
		c.spend(pointerCost(s))
		return c.value(s.elem, pos)
	case shapeAny:
		end := c.skip(pos)
		c.spend(int64(end-pos) * anyCost)
		return end
	case shapeSlice, shapeArray:
		if n, next, ok := c.array(pos); ok {
			if s.kind == shapeSlice {
				c.spend(sliceCost(s, n))
			}
			for range n {
				next = c.value(s.elem, next)
			}
			return next
		}
	case shapeMap:
		// msgpack skips the first bytes of an extension and takes the next for
		// the header of the map. To a scan, "c7 05 01 df ff ff ff ff" is 8
		// sound bytes. To msgpack it is a map of 4 billion, which it allocates
		// at once.
		if codes[first].facts&sawExt != 0 {
			c.err = errExtForMap
		} else if n, next, ok := c.pairs(pos); ok {
			c.spend(mapCost(s, n))
			for range n {
				next = c.value(s.elem, c.value(s.key, next))
			}
			return next
		}
	case shapeStruct:
		if n, next, ok := c.pairs(pos); ok {
			// After an error positions no longer advance, and may not be at a
			// name.
			for i, embedded := 0, -1; i < n && c.err == nil; i++ {
				name, after := c.text(next)
				f := s.fieldNamed(name, i)
				if f.cost > 0 && f.index[0] != embedded { // once for all fields behind one pointer
					embedded = f.index[0]
					c.spend(f.cost)
				}
				next = c.value(f.shape, after)
			}
			return next
		}
		if n, next, ok := c.array(pos); ok && n == len(s.fields) {
			for _, f := range s.fields {
				next = c.value(f.shape, next)
			}
			return next
		}
	}
	return c.skip(pos)
}

// spend deducts n bytes from the limit.
func (c *comparison) spend(n int64) {
	if c.limit -= n; c.limit < 0 && c.err == nil {
		c.err = errAllocTooLarge
	}
}

// unknown is a field of another release, which the decoder skips.
var unknown = &field{shape: &shape{kind: shapeLeaf}}

// fieldNamed returns the field with a name, or unknown. Structs are written in
// order, so the i-th pair usually is the i-th field, and few names are looked
// up.
func (s *shape) fieldNamed(name []byte, i int) *field {
	if i < len(s.fields) && s.fields[i].name == string(name) {
		return &s.fields[i]
	}
	if f := s.byName[string(name)]; f != nil {
		return f
	}
	return unknown
}

// The functions below read scanned bytes, so the bytes that a code announces
// exist. If the value is of another kind, ok is false.

// array returns the number of elements of the array at pos, and the start of
// the first.
func (c *comparison) array(pos int) (n, next int, ok bool) {
	switch b := c.src[pos:]; {
	case b[0]&0xf0 == 0x90:
		return int(b[0] & 0x0f), pos + 1, true
	case b[0] == 0xdc:
		return int(binary.BigEndian.Uint16(b[1:])), pos + 3, true
	case b[0] == 0xdd:
		return int(binary.BigEndian.Uint32(b[1:])), pos + 5, true
	}
	return 0, 0, false
}

// pairs returns the number of pairs of the map at pos, and the start of the
// first.
func (c *comparison) pairs(pos int) (n, next int, ok bool) {
	switch b := c.src[pos:]; {
	case b[0]&0xf0 == 0x80:
		return int(b[0] & 0x0f), pos + 1, true
	case b[0] == 0xde:
		return int(binary.BigEndian.Uint16(b[1:])), pos + 3, true
	case b[0] == 0xdf:
		return int(binary.BigEndian.Uint32(b[1:])), pos + 5, true
	}
	return 0, 0, false
}

// text returns the string or the bytes at pos, and the end of the value. s is
// nil if the value has another type.
func (c *comparison) text(pos int) (s []byte, end int) {
	end = c.skip(pos)
	switch b := c.src[pos]; {
	case b&0xe0 == 0xa0:
		s = c.src[pos+1 : end]
	case b == 0xc4, b == 0xc5, b == 0xc6, b == 0xd9, b == 0xda, b == 0xdb:
		s = c.src[pos+int(codes[b].size) : end]
	}
	return s, end
}

// skip returns the end of the value at pos.
func (c *comparison) skip(pos int) int {
	if first := &codes[c.src[pos]]; first.class == classFixed {
		return pos + int(first.size)
	}
	return c.run(pos, 1, 0)
}

// integer returns the integer at the start of b: its 64 bits and whether it is
// negative. b holds all bytes of that value.
func integer(b []byte) (n uint64, negative, ok bool) {
	signed := int64(0)
	switch {
	case b[0] < 0x80:
		return uint64(b[0]), false, true
	case b[0] >= 0xe0:
		signed = int64(int8(b[0]))
	case b[0] == 0xcc:
		return uint64(b[1]), false, true
	case b[0] == 0xcd:
		return uint64(binary.BigEndian.Uint16(b[1:])), false, true
	case b[0] == 0xce:
		return uint64(binary.BigEndian.Uint32(b[1:])), false, true
	case b[0] == 0xcf:
		return binary.BigEndian.Uint64(b[1:]), false, true
	case b[0] == 0xd0:
		signed = int64(int8(b[1]))
	case b[0] == 0xd1:
		signed = int64(int16(binary.BigEndian.Uint16(b[1:])))
	case b[0] == 0xd2:
		signed = int64(int32(binary.BigEndian.Uint32(b[1:])))
	case b[0] == 0xd3:
		signed = int64(binary.BigEndian.Uint64(b[1:]))
	default:
		return 0, false, false
	}
	return uint64(signed), signed < 0, true
}

// fits reports whether n, which is negative or not, fits an integer of so many
// bits, signed or unsigned.
func fits(signed bool, bits int, n uint64, negative bool) bool {
	switch {
	case !signed:
		return !negative && n>>bits == 0
	case negative:
		return int64(n) >= -1<<(bits-1)
	default:
		return n < 1<<(bits-1)
	}
}
