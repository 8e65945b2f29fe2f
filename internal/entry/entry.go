// Package entry defines the value of one key of a cache in Redis: a header of
// 40 bytes and the bytes of a codec.
//
// The lease on a key is stored in the header, and nowhere else. So deleting,
// overwriting, expiring or evicting the key, by any client including redis-cli,
// removes the lease, and a load that began before can no longer be stored.
//
// The scripts of package script edit the header in place. docs/entry.md gives
// the layout for programs in other languages; the golden files in testdata pin
// it.
//
//	off len
//	  0   2  magic, C1 58: C1 occurs neither in UTF-8 nor in MessagePack
//	  2   1  format, 01
//	  3   1  state: 'V' a value, 'L' a lease on a key without a value, 'N' known to
//	         have none
//	  4   1  flags: 1 expired while leased, 2 awaited, 4 stale by hand, 8 a count;
//	         plus 16 times the number of failed loads since the value was stored
//	  5   1  check: the sum of the other 39 bytes, modulo 256
//	  6   6  soft: fresh until; FF FF FF FF FF FF forever
//	 12   8  token: of the lease, or of the write that stored the value
//	 20   6  till: the expiry of the lease on a value; 0 no lease. Without a token:
//	         after a failed load, no process retries before it
//	 26   6  born: the start of the load that made the value; for a SET value, by
//	         the clock of its writer
//	 32   4  cost: the duration of that load
//	 36   4  sum: CRC-32C of the Redis key and the payload; meaningless in a count
//	 40      payload
//
// Numbers are big endian, times are milliseconds of the server's clock since
// 1970, the cost is in milliseconds.
//
// The check is a sum because a script, which has no bit operations, can update
// it when it edits a few bytes. It detects a change of any one byte of the
// header. The CRC detects changes of the payload, and a value under another key
// than its own. A count, which scripts add to, has no CRC: its payload is a
// decimal number, and a script cannot update a CRC.
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

// Paused reports whether a load has failed, and no process may retry before
// Till.
func (h *Header) Paused() bool { return h.State == Value && h.Till != 0 && h.Token == Token{} }

// Leased reports whether a process holds the lease.
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

// State is the kind of an entry.
type State byte

// The states of an entry. Bytes with any other state are not an entry.
const (
	Value  State = 'V' // a value, perhaps with a lease to refresh it
	Lease  State = 'L' // no value; the holder of the token is loading one
	Absent State = 'N' // the source has no value
)

// Flags are set by one process for others.
type Flags byte

// The flags of an entry.
const (
	Expired Flags = 1 << iota // expired by hand while leased: the result of the load is stale at once
	Awaited                   // a reader waits for the end of the lease: the script that ends it publishes
	Stale                     // expired by hand: stale for every reader's clock
	Count                     // of a value: a script has added to it, and Sum is meaningless
)

// MaxFails is the greatest Header.Fails; more failures do not increase it.
const MaxFails = 15

// Token identifies one attempt to load, or one write. It is the fencing token
// of the protocol: comparing tokens decides which result may be stored.
type Token [8]byte

// NewToken returns a new random token. A token is never sent for two attempts:
// an attempt whose reply was lost may still reach Redis late, and must then
// match nothing.
func NewToken() (t Token) {
	for t == (Token{}) { // the zero Token means no token
		rand.Read(t[:]) // never fails: crypto/rand ends the program instead
	}
	return t
}

// Header is the fixed part of an entry.
type Header struct {
	State State
	Flags Flags
	Fails int   // failed loads since the value was stored
	Soft  int64 // milliseconds since 1970, the server's; Forever
	Token Token
	Till  int64 // milliseconds since 1970, the server's; 0: no lease and no pause
	Born  int64 // milliseconds since 1970, the server's
	Cost  time.Duration
	Sum   uint32
}

// Parse splits b into its header and its payload, which is a part of b. It
// reports false if b is not an entry of this format stored under key: foreign
// bytes, a part of an entry, an entry of another key. If only the header is
// valid, Parse still returns it: the scripts, which do not read payloads, treat
// such bytes as an entry, and need its token.
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
		ok = h.Sum == Sum(key, b[Size:]) // the reader decides whether a payload is required
	default:
		return Header{}, nil, false
	}
	if !ok {
		return h, nil, false
	}
	return h, b[Size:], true
}

// header decodes the first bytes of b without validation.
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

// Append appends h to dst as the first bytes of an entry. The caller appends
// the payload, whose checksum is h.Sum.
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

// Sum returns the CRC-32C of key followed by payload.
func Sum(key string, payload []byte) uint32 {
	// The bytes of key are only read, by a function that does not retain them.
	// A copy would cost a hit one allocation.
	k := unsafe.Slice(unsafe.StringData(key), len(key))
	return crc32.Update(crc32.Update(0, castagnoli, k), castagnoli, payload)
}

// AppendCost appends the duration of a load in the form of a header: whole
// milliseconds, at most 49 days.
func AppendCost(dst []byte, d time.Duration) []byte {
	ms := min(max(d.Milliseconds(), 0), 1<<32-1)
	return binary.BigEndian.AppendUint32(dst, uint32(ms))
}

// decimal reports whether b is a number as scripts write it. The codec decides
// whether it is an int64.
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

// check returns the sum of the bytes of a header except the check itself.
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
