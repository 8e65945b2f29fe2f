package cachex

import (
	"bytes"
	"hash/maphash"
	"slices"
	"sync"
)

// renderAll returns the keys in Redis of some keys of a call that differ, of
// all if some is nil; where these are among the keys of the call, nil if all
// are in their place; and how many come before the first that cannot be
// rendered, and the error of that.
//
// A call for many keys takes a good part of its time for that. So they are
// rendered one behind the other, and are parts of one string; and those that
// come twice are found without a map.
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
		if !dropped { // from now on, others take its place
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

// A keyRow is keys that differ, one behind the other. It is used again.
type keySet struct {
	buf   []byte
	ends  []int   // of each key, in b
	table []int32 // 1 + the index of a key, at its hash or behind it; 0: none. At least half are
}

var keySetPool = sync.Pool{New: func() any { return new(keySet) }}

var hashSeed = maphash.MakeSeed()

// begin makes room for n keys.
func (r *keySet) reset(n int) {
	size := 8
	for size < 2*n {
		size *= 2
	}
	r.buf, r.ends = r.buf[:0], r.ends[:0]
	r.table = slices.Grow(r.table[:0], size)[:size]
	clear(r.table)
}

// end has the row be used again, unless it has become large.
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

// add adds what b has behind the keys, unless it is one of them, and reports
// whether it is not.
func (r *keySet) add(b []byte) bool {
	key := b[len(r.buf):]
	at := int(maphash.Bytes(hashSeed, key)) & (len(r.table) - 1)
	for ; r.table[at] != 0; at = (at + 1) & (len(r.table) - 1) {
		if bytes.Equal(r.key(int(r.table[at])-1), key) {
			r.buf = b[:len(r.buf)] // it may have grown
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
