package codec

import "sync"

// A buffer gathers what an encoder writes. It refuses to hold more than Redis
// can, so that a value without end fails instead of taking all memory.
type buffer struct{ b []byte }

// maxEncoded is the length of the longest string that Redis holds.
const maxEncoded = 512 << 20

var errEncodedTooLarge = cannotEncode("more than the 512 MiB that Redis can hold", ErrTooLarge)

// Write appends p, or nothing and fails with an [ErrTooLarge].
func (w *buffer) Write(p []byte) (int, error) {
	if len(p) > maxEncoded-len(w.b) {
		return 0, errEncodedTooLarge
	}
	w.b = append(w.b, p...)
	return len(p), nil
}

// WriteByte appends c, or fails with an [ErrTooLarge].
func (w *buffer) WriteByte(c byte) error {
	if len(w.b) >= maxEncoded {
		return errEncodedTooLarge
	}
	w.b = append(w.b, c)
	return nil
}

// maxPooled is the capacity above which a buffer is left to the garbage
// collector, lest one large value be paid for by every pooled buffer.
const maxPooled = 256 << 10

var scratchPool = sync.Pool{New: func() any { return new([]byte) }}

// getScratch lends a slice of length 0.
func getScratch() *[]byte { return scratchPool.Get().(*[]byte) }

func putScratch(p *[]byte) {
	if cap(*p) <= maxPooled {
		*p = (*p)[:0]
		scratchPool.Put(p)
	}
}
