package cachex

import (
	"bytes"
	"hash/maphash"
	"slices"
	"sync"
)

// renderDistinct renders the distinct keys of a call at the indexes some, or
// all keys if some is nil. It returns their indexes, or nil if every key of the
// call is among them. before is the number of distinct keys before the first
// that cannot be rendered, and bad is its error.
//
// Rendering is a large part of the time of a call for many keys. So the keys
// are rendered into one buffer, are parts of one string, and duplicates are
// found without a map.
func (c *core) renderDistinct(op string, from keySource, some []int) (rkeys []string, is []int, before int, bad error) {
	n := from.len()
	if some != nil {
		n = len(some)
	}
	r := keySetPool.Get().(*keySet)
	defer r.release()
	r.reset(n)
	dropped := false
	for j := range n {
		i := indexAt(some, j)
		b, err := from.append(r.buf, i)
		if err != nil && bad == nil {
			bad, before = c.fail(op, "", err), len(r.ends)
		}
		if err == nil && r.add(b) {
			if dropped {
				is = append(is, i)
			}
			continue
		}
		if !dropped { // indexes and positions differ from now on
			dropped = true
			is = make([]int, j, n)
			for at := range is {
				is[at] = indexAt(some, at)
			}
		}
	}
	if !dropped {
		is = some
	}
	return r.strings(), is, before, bad
}

// keySet is a set of keys in one buffer. It is pooled.
type keySet struct {
	buf   []byte
	ends  []int   // the end of each key in buf
	table []int32 // open addressing: 1 + the index of a key, or 0; at least half of the slots are 0
}

var keySetPool = sync.Pool{New: func() any { return new(keySet) }}

var hashSeed = maphash.MakeSeed()

// reset empties the set and makes room for n keys.
func (r *keySet) reset(n int) {
	size := 8
	for size < 2*n {
		size *= 2
	}
	r.buf, r.ends = r.buf[:0], r.ends[:0]
	r.table = slices.Grow(r.table[:0], size)[:size]
	clear(r.table)
}

// release returns r to the pool unless its buffer is too large.
func (r *keySet) release() {
	if cap(r.buf) <= 1<<16 {
		keySetPool.Put(r)
	}
}

// key returns the i-th key.
func (r *keySet) key(i int) []byte {
	if i == 0 {
		return r.buf[:r.ends[0]]
	}
	return r.buf[r.ends[i-1]:r.ends[i]]
}

// add adds the bytes that follow the keys in b, and reports whether they are a
// new key.
func (r *keySet) add(b []byte) bool {
	key := b[len(r.buf):]
	at := int(maphash.Bytes(hashSeed, key)) & (len(r.table) - 1)
	for ; r.table[at] != 0; at = (at + 1) & (len(r.table) - 1) {
		if bytes.Equal(r.key(int(r.table[at])-1), key) {
			r.buf = b[:len(r.buf)] // keeps the capacity that b may have gained
			return false
		}
	}
	r.buf, r.ends = b, append(r.ends, len(b))
	r.table[at] = int32(len(r.ends))
	return true
}

// strings returns the keys.
func (r *keySet) strings() []string {
	all, from := string(r.buf), 0
	rkeys := make([]string, len(r.ends))
	for i, end := range r.ends {
		rkeys[i], from = all[from:end], end
	}
	return rkeys
}
