package cachex

import (
	"bytes"
	"hash/maphash"
	"slices"
	"sync"
)

// renderAll returns the keys in Redis of keys that differ, and these; and how
// many come before the first that cannot be rendered, and the error of that.
//
// A call for many keys takes a good part of its time for that. So they are rendered one
// behind the other, and are parts of one string; and those that come twice are found
// without a map.
func (c *Cache[K, V]) renderAll(op string, keys []K) (ks []string, distinct []K, before int, bad error) {
	r := rowPool.Get().(*keyRow)
	defer r.end()
	r.begin(len(keys))
	distinct = make([]K, 0, len(keys))
	for _, key := range keys {
		b, err := c.appendKey(r.b, key)
		if err == nil {
			err = c.key.Hashable(key) // the result is a map
		}
		if err != nil {
			if bad == nil {
				bad, before = c.core.fail(op, "", err), len(distinct)
			}
			continue
		}
		if r.add(b) {
			distinct = append(distinct, key)
		}
	}
	return r.strings(), distinct, before, bad
}

// A keyRow is keys that differ, one behind the other. It is used again.
type keyRow struct {
	b     []byte
	ends  []int   // of each key, in b
	table []int32 // 1 + the index of a key, at its hash or behind it; 0: none. At least half are
}

var rowPool = sync.Pool{New: func() any { return new(keyRow) }}

var rowSeed = maphash.MakeSeed()

// begin makes room for n keys.
func (r *keyRow) begin(n int) {
	size := 8
	for size < 2*n {
		size *= 2
	}
	r.b, r.ends = r.b[:0], r.ends[:0]
	r.table = slices.Grow(r.table[:0], size)[:size]
	clear(r.table)
}

// end has the row be used again, unless it has become large.
func (r *keyRow) end() {
	if cap(r.b) <= 1<<16 {
		rowPool.Put(r)
	}
}

// key returns the i-th key.
func (r *keyRow) key(i int) []byte {
	if i == 0 {
		return r.b[:r.ends[0]]
	}
	return r.b[r.ends[i-1]:r.ends[i]]
}

// add adds what b has behind the keys, unless it is one of them, and reports whether it
// is not.
func (r *keyRow) add(b []byte) bool {
	key := b[len(r.b):]
	at := int(maphash.Bytes(rowSeed, key)) & (len(r.table) - 1)
	for ; r.table[at] != 0; at = (at + 1) & (len(r.table) - 1) {
		if bytes.Equal(r.key(int(r.table[at])-1), key) {
			r.b = b[:len(r.b)] // it may have grown
			return false
		}
	}
	r.b, r.ends = b, append(r.ends, len(b))
	r.table[at] = int32(len(r.ends))
	return true
}

// strings returns the keys.
func (r *keyRow) strings() []string {
	all, from := string(r.b), 0
	ks := make([]string, len(r.ends))
	for i, end := range r.ends {
		ks[i], from = all[from:end], end
	}
	return ks
}
