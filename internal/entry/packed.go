package entry

// A packed entry is the field of a hash that many entries share, for which a header
// of 40 bytes would be too much, and of which Redis does not know when it ends. It
// has one of two forms. A value that is settled, without a lease, a failure or a
// mark, and the knowledge that there is none, have 7 bytes before the payload. These
// are 56 bits:
//
//	bits
//	   1  set
//	   1  set if there is no value
//	  41  soft, in milliseconds since 2^36 of them before 2000; all set forever
//	  13  check: the CRC-32C of the key and the payload, and the sum of the first 6
//	      bytes as they are without the check, modulo 8192
//
// It ends when it is of no use any more: a value when its cache, which knows for
// how long, serves it no more even if it is stale, and else with soft. When the
// load began and what it cost is not kept. The 7 bytes and a zero do for a token:
// they tell one entry from the next, and no lease ever has them.
//
// What begins with C1 has the long form, and so has what is of a soft before 2000: some
// of that would begin with C1, too.
//
// 7 bytes, and not 8, since a hash of 100 with values of 40 or 110 bytes then just
// fits a size in which the allocator of Redis deals.
//
// All else has the 40 bytes that an entry has which is not packed, and 6 more before
// the payload: the end, in milliseconds of the server's clock. Of sum, 13 bits count.
//
// The key, which is what callers call the entry, is that of the hash, a space, and
// the field.
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

// ParsePacked is Parse of the field of a hash. A lease has, as Till, the time when
// it ends.
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

// parseShort is ParsePacked of the short form.
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

// AppendPacked is Append of a header of a packed entry that is kept until end, and of
// which the cache serves no value for longer than stale after Soft, Forever as long as
// it is there. It is what the scripts do.
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

// short reports whether the short form says all that there is to say.
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

// shortSum returns the sum of the 6 bytes of x, of which the last 5 bits are taken for
// zero.
func shortSum(x int64) (n uint32) {
	for x &^= checkHigh; x != 0; x >>= 8 {
		n += uint32(x & 255)
	}
	return n
}
