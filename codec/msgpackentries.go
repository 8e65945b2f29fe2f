package codec

import (
	"bytes"
	"slices"
	"sync"
)

// entries holds the positions of the entries of an encoded map.
type entries struct {
	all     []entry
	scratch []byte // for a copy of the entries
}

type entry struct{ from, keyEnd, end int }

func (e entry) key(b []byte) []byte { return b[e.from:e.keyEnd] }

func (e *entries) add(from, keyEnd, end int) { e.all = append(e.all, entry{from, keyEnd, end}) }

// sort sorts the entries in b[begin:] by their encoded keys, and forgets their
// positions. It panics if two keys are encoded alike, since one would be lost.
func (e *entries) sort(b []byte, begin int) []byte {
	byKey := func(x, y entry) int { return bytes.Compare(x.key(b), y.key(b)) }
	ordered := slices.IsSortedFunc(e.all, byKey)
	if !ordered {
		slices.SortFunc(e.all, byKey)
	}
	for i := 1; i < len(e.all); i++ {
		if bytes.Equal(e.all[i-1].key(b), e.all[i].key(b)) {
			panic(errKeysAlike)
		}
	}
	if !ordered {
		e.scratch = append(e.scratch[:0], b[begin:]...)
		b = b[:begin]
		for _, entry := range e.all {
			b = append(b, e.scratch[entry.from-begin:entry.end-begin]...)
		}
		if cap(e.scratch) > maxPooled {
			e.scratch = nil
		}
	}
	if cap(e.all) > maxPooledEntries {
		e.all = nil
	}
	e.all = e.all[:0]
	return b
}

const maxPooledEntries = 4 << 10

var entriesPool = sync.Pool{New: func() any { return new(entries) }}
