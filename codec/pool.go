package codec

import "sync"

// buffer collects the output of an encoder. It refuses to hold more than Redis
// can, so a value without end fails instead of taking all memory.
type buffer struct{ b []byte }

// maxEncoded is the length in bytes of the longest string that Redis holds.
const maxEncoded = 512 << 20

var errEncodedTooLarge = cannotEncode("more than the 512 MiB that Redis can hold", ErrTooLarge)

// Write appends p. If p does not fit, it appends nothing and returns an
// [ErrTooLarge].
func (w *buffer) Write(p []byte) (int, error) {
	if len(p) > maxEncoded-len(w.b) {
		return 0, errEncodedTooLarge
	}
	w.b = append(w.b, p...)
	return len(p), nil
}

// WriteByte appends c. If c does not fit, it returns an [ErrTooLarge].
func (w *buffer) WriteByte(c byte) error {
	if len(w.b) >= maxEncoded {
		return errEncodedTooLarge
	}
	w.b = append(w.b, c)
	return nil
}

// maxPooled is the capacity above which a buffer is left to the garbage
// collector. Otherwise one large value could make every pooled buffer large.
const maxPooled = 256 << 10

var scratchPool = sync.Pool{New: func() any { return new([]byte) }}

// getScratch returns a slice of length 0, to be returned by putScratch.
func getScratch() *[]byte { return scratchPool.Get().(*[]byte) }

func putScratch(p *[]byte) {
	if cap(*p) <= maxPooled {
		*p = (*p)[:0]
		scratchPool.Put(p)
	}
}
