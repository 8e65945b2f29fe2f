package entry

// A packed entry is a field of a hash that many entries share. A header of 40
// bytes would be too much for it, and Redis does not know when it ends. It has
// one of two forms. The short form is for a value without a lease, a failure or
// a mark, and for a remembered absence of a value. It has 7 bytes before the
// payload. These are 56 bits:
//
//	bits
//	   1  set
//	   1  set if there is no value
//	  41  soft, in milliseconds since 2^36 of them before 2000; all set forever
//	  13  check: the CRC-32C of the key and the payload, and the sum of the first 6
//	      bytes as they are without the check, modulo 8192
//
// A value ends when its cache, which knows how long it may be stale, no longer
// serves it. A remembered absence ends with soft. The start and the cost of the
// load are not kept. The 7 bytes and a zero serve as its token: they tell one
// entry from the next, and no lease ever has them.
//
// Bytes that begin with C1 have the long form. So have entries whose soft is
// before 2000, since some of their short forms would begin with C1 too.
//
// It is 7 bytes, not 8, since a hash of 100 values of 40 or 110 bytes then just
// fits a size class of the allocator of Redis.
//
// All other entries have the 40 bytes of an unpacked entry, and 6 more before
// the payload: the end, in milliseconds of the server's clock. Of sum, 13 bits
// count.
//
// The key that callers pass consists of the key of the hash, a space, and the
// field.
const (
	short     = 7
	shortMark = 0x80 // of the first byte
	shortNone = 0x40
	maxShort  = 1<<41 - 1
	y2000     = 946_684_800_000
	begin     = y2000 - 1<<36
	checked   = 1<<13 - 1
	checkHigh = checked >> 8 // of the sixth byte
)

// ParsePacked is like Parse, for a field of a hash. The Till of a lease is the
// time when it ends.
func ParsePacked(key string, b []byte) (h Header, payload []byte, ok bool) {
	if len(b) >= short && b[0] >= shortMark && b[0] != magic0 {
		return parseShort(key, b)
	}
	if len(b) < Size+6 || b[0] != magic0 || b[1] != magic1 || b[2] != format || check(b) != b[5] {
		return h, nil, false
	}
	h, payload = header(b), b[Size+6:]
	sound := (h.Sum^Sum(key, payload))&checked == 0
	switch h.State {
	case Lease:
		h.Till = uint48(b[Size:])
		ok = len(payload) == 0
	case Value:
		ok = sound && h.Flags&Count == 0
	case Absent:
		ok = sound
	default:
		return Header{}, nil, false
	}
	if !ok {
		payload = nil
	}
	return h, payload, ok
}

// parseShort is ParsePacked for the short form.
func parseShort(key string, b []byte) (h Header, payload []byte, ok bool) {
	x := uint48(b)
	h = Header{State: Value, Soft: x>>5&maxShort + begin}
	copy(h.Token[:], b[:short])
	if b[0]&shortNone != 0 {
		h.State = Absent
	}
	if h.Soft == maxShort+begin {
		h.Soft = Forever
	}
	h.Sum = (uint32(x&checkHigh)<<8 | uint32(b[6])) - shortSum(x)&checked
	h.Sum &= checked
	if (h.Sum^Sum(key, b[short:]))&checked != 0 || h.Soft < y2000 {
		return h, nil, false
	}
	return h, b[short:], true
}

// AppendPacked is like Append, for a packed entry that is kept until end, and
// whose cache serves a value for at most stale after Soft; Forever means as
// long as it is there. The scripts do the same.
func (h Header) AppendPacked(dst []byte, end, stale int64) []byte {
	if !h.short(end, stale) {
		return appendUint48(h.Append(dst), end)
	}
	x := shortMark<<40 | min(h.Soft-begin, maxShort)<<5
	if h.State == Absent {
		x |= shortNone << 40
	}
	sum := (h.Sum + shortSum(x)) & checked
	return append(appendUint48(dst, x|int64(sum>>8)), byte(sum))
}

// short reports whether the short form can represent h.
func (h *Header) short(end, stale int64) bool {
	if h.State == Lease || h.Flags != 0 || h.Fails != 0 || h.Till != 0 || h.Token == (Token{}) {
		return false
	}
	due := h.Soft
	if h.State == Value && h.Soft != Forever {
		if due = Forever; stale != Forever {
			due = h.Soft + stale
		}
	}
	return end == due && (h.Soft == Forever || h.Soft >= y2000 && h.Soft < begin+maxShort)
}

// shortSum returns the sum of the 6 bytes of x, with the last 5 bits taken as
// zero.
func shortSum(x int64) (n uint32) {
	for x &^= checkHigh; x != 0; x >>= 8 {
		n += uint32(x & 255)
	}
	return n
}
