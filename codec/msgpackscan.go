package codec

import (
	"encoding/binary"
	"fmt"
)

// maxDepth is the greatest nesting of arrays and maps in MessagePack. The
// decoder recurses, and a megabyte of nesting overflows its stack, which kills
// the process. 512 levels need less than a megabyte of stack.
const maxDepth = 512

var (
	errNoBytes       = badFormat("MessagePack: no bytes", nil)
	errTruncated     = badFormat("MessagePack: lengths exceed the bytes that are left", nil)
	errTrailing      = badFormat("MessagePack: bytes after the value", nil)
	errReserved      = badFormat("MessagePack: the reserved code 0xc1", nil)
	errDecodeTooDeep = badFormat(fmt.Sprintf("MessagePack: nested deeper than %d", maxDepth), ErrTooLarge)
)

// facts records what a scan has seen. Each fact is a reason to look again with
// the type: an integer of that code may not fit, or the decoder misreads it.
// Most facts follow from a value's first byte and cost one OR. The others need
// the byte after it.
type facts uint16

const (
	sawNegative facts = 1 << iota // any negative integer
	sawUint8
	sawUint16
	sawUint32
	sawUint64
	sawHuge // an unsigned integer above the greatest int64
	sawInt16
	sawInt32
	sawInt64
	sawExt
)

// code describes a value by its first byte, as far as a scan needs it.
type code struct {
	class codeClass
	size  uint8 // length of the code, its length field, and all parts of fixed length
	items uint8 // of classItems
	facts facts
}

type codeClass uint8

const (
	classFixed  codeClass = iota // nothing follows size
	classSigned                  // the top bit of the second byte is the sign
	classUint64                  // the top bit of the second byte says that an int64 is too small
	classLen8                    // a length of that many bits is next, and as many
	classLen16                   // bytes follow after size
	classLen32
	classItems   // values follow
	classArray16 // so many values follow
	classArray32
	classMap16 // so many pairs of values follow
	classMap32
	classReserved
)

const codeNil = 0xc0

// codes is indexed by the first byte of a value. The names in comments are from
// the specification, https://github.com/msgpack/msgpack/blob/master/spec.md.
var codes = func() (t [256]code) {
	for c := range t {
		switch {
		case c < 0x80: // positive fixint
			t[c] = code{size: 1}
		case c < 0x90: // fixmap
			t[c] = code{class: classItems, size: 1, items: uint8(c&0x0f) * 2}
		case c < 0xa0: // fixarray
			t[c] = code{class: classItems, size: 1, items: uint8(c & 0x0f)}
		case c < 0xc0: // fixstr
			t[c] = code{size: uint8(1 + c&0x1f)}
		case c >= 0xe0: // negative fixint
			t[c] = code{size: 1, facts: sawNegative}
		}
	}
	for c, code := range map[byte]code{
		0xc0: {size: 1}, 0xc1: {class: classReserved, size: 1}, 0xc2: {size: 1}, 0xc3: {size: 1}, // nil, -, bools
		0xc4: {class: classLen8, size: 2}, 0xc5: {class: classLen16, size: 3}, 0xc6: {class: classLen32, size: 5}, // bin
		0xc7: {class: classLen8, size: 3, facts: sawExt}, // ext
		0xc8: {class: classLen16, size: 4, facts: sawExt},
		0xc9: {class: classLen32, size: 6, facts: sawExt},
		0xca: {size: 5}, 0xcb: {size: 9}, // floats
		0xcc: {size: 2, facts: sawUint8}, 0xcd: {size: 3, facts: sawUint16}, 0xce: {size: 5, facts: sawUint32}, // uint
		0xcf: {class: classUint64, size: 9, facts: sawUint64},
		0xd0: {class: classSigned, size: 2}, 0xd1: {class: classSigned, size: 3, facts: sawInt16}, // int
		0xd2: {class: classSigned, size: 5, facts: sawInt32}, 0xd3: {class: classSigned, size: 9, facts: sawInt64},
		0xd4: {size: 3, facts: sawExt}, 0xd5: {size: 4, facts: sawExt}, 0xd6: {size: 6, facts: sawExt}, // fixext
		0xd7: {size: 10, facts: sawExt}, 0xd8: {size: 18, facts: sawExt},
		0xd9: {class: classLen8, size: 2}, 0xda: {class: classLen16, size: 3}, 0xdb: {class: classLen32, size: 5}, // str
		0xdc: {class: classArray16, size: 3}, 0xdd: {class: classArray32, size: 5},
		0xde: {class: classMap16, size: 3}, 0xdf: {class: classMap32, size: 5},
	} {
		t[c] = code
	}
	return t
}()

// scan walks MessagePack without the type and without allocating. It finds out
// whether the bytes are one value, whole and not too deep. So the decoder
// cannot misread lengths: a slice that is made for n elements finds n elements.
// A scan takes a tenth of the time of decoding, which the pooling of decoders
// saves.
type scan struct {
	src    []byte
	values int   // number of values met
	saw    facts // about these values
	err    error
}

// all scans the whole of src as one value.
func (s *scan) all(src []byte) error {
	if len(src) == 0 {
		return errNoBytes
	}
	s.src = src
	if end := s.run(0, 1, 0); s.err == nil && end != len(src) {
		s.err = errTrailing
	}
	return s.err
}

// run scans n values at pos and returns their end. If they are unsound, it sets
// err. It recurses only into containers, maxDepth at most. A stack of counters
// instead of recursion is no faster, and has to be cleared.
func (s *scan) run(pos, n, depth int) int {
	src, saw := s.src, s.saw
	s.values += n
	for ; n > 0; n-- {
		if pos >= len(src) {
			return s.fail(errTruncated)
		}
		start := pos
		c := &codes[src[pos]]
		saw |= c.facts
		if pos += int(c.size); pos > len(src) {
			return s.fail(errTruncated)
		}
		if c.class == classFixed {
			continue // two in three values: short strings, small numbers, nil
		}
		items := uint64(0) // 64 bits, since 2^32 pairs may overflow an int
		switch c.class {
		case classSigned:
			if src[start+1] >= 0x80 {
				saw |= sawNegative
			}
			continue
		case classUint64:
			if src[start+1] >= 0x80 {
				saw |= sawHuge
			}
			continue
		case classReserved:
			return s.fail(errReserved)
		case classLen8:
			pos += int(src[start+1])
		case classLen16:
			pos += int(binary.BigEndian.Uint16(src[start+1:]))
		case classLen32:
			// The length is compared before it is added, since the sum could
			// overflow an int.
			length := binary.BigEndian.Uint32(src[start+1:])
			if uint64(length) > uint64(len(src)-pos) {
				return s.fail(errTruncated)
			}
			pos += int(length)
		case classItems:
			items = uint64(c.items)
		case classArray16:
			items = uint64(binary.BigEndian.Uint16(src[start+1:]))
		case classArray32:
			items = uint64(binary.BigEndian.Uint32(src[start+1:]))
		case classMap16:
			items = uint64(binary.BigEndian.Uint16(src[start+1:])) * 2
		case classMap32:
			items = uint64(binary.BigEndian.Uint32(src[start+1:])) * 2
		}
		if c.class < classItems {
			if pos > len(src) {
				return s.fail(errTruncated)
			}
			continue
		}
		// Each item takes at least one byte. Without this check the loop would
		// find the same error, but only after all the bytes.
		if items > uint64(len(src)-pos) {
			return s.fail(errTruncated)
		}
		if depth == maxDepth {
			return s.fail(errDecodeTooDeep)
		}
		if pos = s.run(pos, int(items), depth+1); s.err != nil {
			return pos
		}
	}
	s.saw |= saw
	return pos
}

// fail sets err. It returns the end of src, so that loops end.
func (s *scan) fail(err error) int {
	s.err = err
	return len(s.src)
}
