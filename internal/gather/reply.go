package gather

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"
	"sync"

	"github.com/redis/go-redis/v9"
)

// reply is the reply of one MGET as it arrives. It is written once, then read
// once. Its memory is reused, except for large values.
//
// Large values get their own buffers: one buffer for all of them would be
// copied again and again as it grows.
type reply struct {
	b    []byte   // the whole reply, unless it has large values
	more [][]byte // each large value, and the bytes after it
	rest []byte   // the unread rest of the current piece
	next int      // the piece after that: 0 is b
}

// largeValue is the number of bytes that make a value large. largeReply is the
// number of bytes kept for the next reply: about the size of a batch of values
// of 1 KB.
const (
	largeValue = 1 << 12
	largeReply = 1 << 18

	// largestStep limits the bytes that are allocated at once: a malformed
	// length must not ask for all memory.
	largestStep = 1 << 20
)

var replies = sync.Pool{New: func() any { return new(reply) }}

// release says that the caller no longer uses the reply, and that no more of it
// arrives.
func (r *reply) release() {
	if cap(r.b) <= largeReply {
		*r = reply{b: r.b[:0]}
		replies.Put(r)
	}
}

// last returns the piece that is being written.
func (r *reply) last() *[]byte {
	if n := len(r.more); n > 0 {
		return &r.more[n-1]
	}
	return &r.b
}

// Write appends the bytes that the client has read.
func (r *reply) Write(b []byte) (int, error) {
	last := r.last()
	*last = append(*last, b...)
	return len(b), nil
}

// ReadFrom appends a value. If from is a LimitedReader, the client has told its
// length.
func (r *reply) ReadFrom(from io.Reader) (n int64, err error) {
	rest := int64(1)
	limited, known := from.(*io.LimitedReader)
	if known {
		if rest = limited.N; rest >= largeValue {
			r.more = append(r.more, make([]byte, 0, min(rest, largestStep)))
			defer func() { r.more = append(r.more, nil) }() // for the bytes after it
		}
	}
	last := r.last()
	for err == nil && rest > 0 {
		*last = slices.Grow(*last, int(min(rest, largestStep)))
		var some int
		some, err = from.Read((*last)[len(*last):cap(*last)])
		*last = (*last)[:len(*last)+some]
		if n += int64(some); known {
			rest = limited.N
		}
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// isArray reports whether values have arrived: an error is not an array.
func (r *reply) isArray() bool { return bytes.HasPrefix(r.b, []byte("*")) }

// value returns the next value, or redis.Nil.
func (r *reply) value() ([]byte, error) {
	kind, n := r.line()
	if kind == '_' || kind == '$' && n < 0 {
		return nil, redis.Nil
	}
	r.turn()
	if kind != '$' || n > len(r.rest)-2 { // n may be any number
		r.rest = nil
		return nil, errReply
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n+2:]
	return b, nil
}

// line consumes a line of the reply. It returns its type, which is 0 if there
// is no line, and the number in it.
func (r *reply) line() (kind byte, n int) {
	r.turn()
	end := bytes.IndexByte(r.rest, '\r')
	if end < 1 || end+2 > len(r.rest) {
		return 0, 0
	}
	line := r.rest[:end]
	r.rest = r.rest[end+2:]
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil && line[0] != '_' {
		return 0, 0
	}
	return line[0], n
}

// turn moves to the next piece if the current one is consumed.
func (r *reply) turn() {
	for len(r.rest) == 0 && r.next <= len(r.more) {
		if r.next == 0 {
			r.rest = r.b
		} else {
			r.rest = r.more[r.next-1]
		}
		r.next++
	}
}

var errReply = errors.New("the reply to MGET cannot be read")
