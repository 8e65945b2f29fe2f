// Package entry is what one key of a cache holds in Redis: a header of 40 bytes
// and the bytes of a codec.
//
// The lease on a key lives in the header, and nowhere else. Whoever deletes,
// overwrites, expires or evicts the key, redis-cli included, takes the lease
// with it, and a load that began before can no longer be stored.
//
// The scripts of package script edit the header in place. docs/entry.md gives
// the layout for programs in other languages; the golden files in testdata hold
// it still.
//
//	off len
//	  0   2  magic, C1 58: C1 occurs neither in UTF-8 nor in MessagePack
//	  2   1  format, 01
//	  3   1  state: 'V' a value, 'L' a lease on a key that has none, 'N' known to
//	         have none
//	  4   1  flags: 1 expired while leased, 2 somebody waits, 4 stale by hand, 8 a
//	         count; and times 16, how many loads have failed since the value was
//	         stored
//	  5   1  check: the sum of the other 39 bytes, modulo 256
//	  6   6  soft: fresh until; FF FF FF FF FF FF forever
//	 12   8  token: of the lease, or of the write that stored the value
//	 20   6  till: the lease on a value holds until; 0 no lease. Without a token:
//	         after a load that failed, nobody tries again until then
//	 26   6  born: when the load that made the value began; of a value that was SET, by
//	         the clock of who did that
//	 32   4  cost: how long that load took
//	 36   4  sum: CRC-32C of the Redis key and the payload; of no meaning in a count
//	 40      payload
//
// Numbers are big endian, times are milliseconds of the server's clock since
// 1970, the cost is in milliseconds.
//
// The check is a sum because a script, which has no bit operations, can carry it
// along when it edits a few bytes. It finds any one byte of the header that
// changed. The CRC finds what has changed in the payload, and a value that stands
// under another key than its own. A count, to which a script adds, goes without: its
// payload is a decimal number, and a script cannot carry a CRC along.
package entry

import (
	"crypto/rand"
	"encoding/binary"
	"hash/crc32"
	"time"
	"unsafe"
)

// Size is the length of a header in bytes.
const Size = 40

// Paused reports whether a load has failed, and nobody is to try again until
// Till.
func (h *Header) Paused() bool { return h.State == Value && h.Till != 0 && h.Token == Token{} }

// Leased reports whether somebody has the lease.
func (h *Header) Leased() bool {
	return h.State == Lease || h.State == Value && h.Till != 0 && h.Token != Token{}
}

// Forever is the soft expiry of a value that is fresh for as long as it exists.
const Forever int64 = 1<<48 - 1

const (
	magic0 = 0xC1
	magic1 = 'X'
	format = 1
)

// A State says what an entry is.
type State byte

// The states of an entry. Bytes with any other state are not an entry.
const (
	Value  State = 'V' // a value, perhaps with a lease to refresh it
	Lease  State = 'L' // no value; whoever has the token is loading one
	Absent State = 'N' // the source has no value
)

// Flags are set by one party for another to see.
type Flags byte

// The flags of an entry.
const (
	Expired Flags = 1 << iota // expired by hand while leased: what is stored is stale at once
	Awaited                   // somebody waits for the lease to end: the script that ends it publishes
	Stale                     // expired by hand: stale, whatever the clock of the reader says
	Count                     // of a value: a script has added to it, and Sum says nothing
)

// MaxFails is the greatest Header.Fails. It stays there.
const MaxFails = 15

// A Token is the name of one attempt to load, or of one write. It is the fencing
// token of the protocol: the comparison of tokens decides what may be stored.
type Token [8]byte

// NewToken returns a token that nobody had before. It is never sent twice for
// two attempts: an attempt whose reply was lost may still reach Redis, late, and
// must then fit nothing.
func NewToken() (t Token) {
	for t == (Token{}) { // zero means no token
		rand.Read(t[:]) // never fails: crypto/rand ends the program instead
	}
	return t
}

// A Header is the fixed part of an entry.
type Header struct {
	State State
	Flags Flags
	Fails int   // loads that failed since the value was stored
	Soft  int64 // milliseconds since 1970, the server's; Forever
	Token Token
	Till  int64 // milliseconds since 1970, the server's; 0 no lease, and no pause
	Born  int64 // milliseconds since 1970, the server's
	Cost  time.Duration
	Sum   uint32
}

// Parse splits b into its header and its payload, which is a part of b. It
// reports false if b is not an entry of this format stored under key, whatever
// b is: foreign bytes, a part of an entry, an entry of another key. If the
// header alone is right, it returns that all the same: the scripts, which do not
// read payloads, take it for an entry, and have to be told its token.
func Parse(key string, b []byte) (h Header, payload []byte, ok bool) {
	if len(b) < Size || b[0] != magic0 || b[1] != magic1 || b[2] != format {
		return h, nil, false
	}
	h = header(b)
	switch {
	case check(b) != b[5]:
		return Header{}, nil, false
	case h.State == Lease:
		ok = len(b) == Size
	case h.State == Value:
		if h.Flags&Count != 0 {
			ok = decimal(b[Size:])
		} else {
			ok = h.Sum == Sum(key, b[Size:])
		}
	case h.State == Absent:
		ok = h.Sum == Sum(key, b[Size:]) // whether a payload is due is for the reader
	default:
		return Header{}, nil, false
	}
	if !ok {
		return h, nil, false
	}
	return h, b[Size:], true
}

// header returns what the first bytes of b say, whatever they are.
func header(b []byte) Header {
	return Header{
		State: State(b[3]),
		Flags: Flags(b[4] % 16),
		Fails: int(b[4] / 16),
		Soft:  uint48(b[6:]),
		Token: Token(b[12:20]),
		Till:  uint48(b[20:]),
		Born:  uint48(b[26:]),
		Cost:  time.Duration(binary.BigEndian.Uint32(b[32:])) * time.Millisecond,
		Sum:   binary.BigEndian.Uint32(b[36:]),
	}
}

// Append appends h to dst as the first bytes of an entry. The payload, of which
// h.Sum is the sum, is for the caller to append.
func (h Header) Append(dst []byte) []byte {
	n := len(dst)
	dst = append(dst, magic0, magic1, format, byte(h.State), byte(h.Flags)|byte(h.Fails<<4), 0)
	dst = appendUint48(dst, h.Soft)
	dst = append(dst, h.Token[:]...)
	dst = appendUint48(dst, h.Till)
	dst = appendUint48(dst, h.Born)
	dst = AppendCost(dst, h.Cost)
	dst = binary.BigEndian.AppendUint32(dst, h.Sum)
	dst[n+5] = check(dst[n:])
	return dst
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum returns the CRC-32C of key and payload, one after the other.
func Sum(key string, payload []byte) uint32 {
	// The bytes of key are only read, by a function that keeps nothing. A copy
	// would cost a hit one allocation.
	k := unsafe.Slice(unsafe.StringData(key), len(key))
	return crc32.Update(crc32.Update(0, castagnoli, k), castagnoli, payload)
}

// AppendCost appends the cost of a load as a header has it: whole milliseconds,
// at most 49 days.
func AppendCost(dst []byte, d time.Duration) []byte {
	ms := min(max(d.Milliseconds(), 0), 1<<32-1)
	return binary.BigEndian.AppendUint32(dst, uint32(ms))
}

// decimal reports whether b is a number as scripts write it. Whether it is an int64 is
// for the codec to say.
func decimal(b []byte) bool {
	if len(b) > 0 && b[0] == '-' {
		b = b[1:]
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}

// check returns the sum of the bytes of a header but the check itself.
func check(b []byte) byte {
	var n byte
	for _, c := range b[:Size] {
		n += c
	}
	return n - b[5]
}

func uint48(b []byte) int64 {
	return int64(binary.BigEndian.Uint16(b))<<32 | int64(binary.BigEndian.Uint32(b[2:]))
}

func appendUint48(dst []byte, n int64) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(n>>32))
	return binary.BigEndian.AppendUint32(dst, uint32(n))
}
