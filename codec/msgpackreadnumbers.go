package codec

import (
	"encoding/binary"
	"math"
	"time"
)

// signed returns the integer at pos, which must fit so many bits.
func (r *reader) signed(pos, bits int) (int64, int) {
	if c := r.src[pos]; c < 0x80 || c >= 0xe0 {
		return int64(int8(c)), pos + 1
	}
	n, negative, next := r.integer(pos)
	if next == lost || !fits(true, bits, n, negative) {
		return 0, lost
	}
	return int64(n), next
}

// unsigned is signed for an unsigned integer.
func (r *reader) unsigned(pos, bits int) (uint64, int) {
	if c := r.src[pos]; c < 0x80 {
		return uint64(c), pos + 1
	}
	n, negative, next := r.integer(pos)
	if next == lost || !fits(false, bits, n, negative) {
		return 0, lost
	}
	return n, next
}

func (r *reader) integer(pos int) (n uint64, negative bool, next int) {
	next = pos + int(codes[r.src[pos]].size)
	if next > len(r.src) {
		return 0, false, lost
	}
	n, negative, ok := integer(r.src[pos:])
	if !ok {
		return 0, false, lost
	}
	return n, negative, next
}

func (r *reader) float64(pos int) (float64, int) {
	b := r.src[pos:]
	switch {
	case b[0] == 0xcb && len(b) >= 9:
		return math.Float64frombits(binary.BigEndian.Uint64(b[1:])), pos + 9
	case b[0] == 0xca && len(b) >= 5:
		return float64(math.Float32frombits(binary.BigEndian.Uint32(b[1:]))), pos + 5
	}
	n, next := r.signed(pos, 64)
	return float64(n), next
}

func (r *reader) float32(pos int) (float32, int) {
	if b := r.src[pos:]; b[0] == 0xca && len(b) >= 5 {
		return math.Float32frombits(quiet(binary.BigEndian.Uint32(b[1:]))), pos + 5
	}
	n, next := r.signed(pos, 64)
	return float32(n), next
}

// quiet returns the bits of a float32 after a conversion to float64 and back: a
// signaling NaN becomes a quiet one. reflect converts so, and therefore msgpack
// does.
func quiet(bits uint32) uint32 {
	if f := math.Float32frombits(bits); f != f {
		return bits | 1<<22
	}
	return bits
}

// time reads a time, in UTC, in one of the three forms that encoders write.
func (r *reader) time(to *time.Time, pos int) int {
	b := r.src[pos:]
	const id = 0xff // -1
	switch {
	case len(b) >= 6 && b[0] == 0xd6 && b[1] == id:
		*to = time.Unix(int64(binary.BigEndian.Uint32(b[2:])), 0).UTC()
		pos += 6
	case len(b) >= 10 && b[0] == 0xd7 && b[1] == id:
		n := binary.BigEndian.Uint64(b[2:])
		*to = time.Unix(int64(n&(1<<34-1)), int64(n>>34)).UTC()
		pos += 10
	case len(b) >= 15 && b[0] == 0xc7 && b[1] == 12 && b[2] == id:
		*to = time.Unix(int64(binary.BigEndian.Uint64(b[7:])), int64(binary.BigEndian.Uint32(b[3:]))).UTC()
		pos += 15
	default:
		return lost
	}
	return pos
}
