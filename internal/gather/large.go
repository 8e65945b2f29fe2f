package gather

import (
	"hash/maphash"
	"sync/atomic"
)

// A large remembers some of the keys that had a large value when they were last read. It
// may take another key for one of them, which then goes alone.
type large struct {
	some  atomic.Bool // there was one
	marks [256]atomic.Uint64
}

var seed = maphash.MakeSeed()

// has reports whether the key had a large value.
func (l *large) has(key, field string) bool {
	if !l.some.Load() {
		return false
	}
	h := hash(key, field)
	return l.marks[h%uint64(len(l.marks))].Load() == h
}

// note notes how many bytes the key has.
func (l *large) note(key, field string, size int) {
	is := size >= huge
	if !is && !l.some.Load() {
		return
	}
	h := hash(key, field)
	mark := &l.marks[h%uint64(len(l.marks))]
	switch {
	case is:
		l.some.Store(true)
		mark.Store(h)
	case mark.Load() == h:
		mark.CompareAndSwap(h, 0)
	}
}

// hash returns a hash that is not 0.
func hash(key, field string) uint64 {
	return maphash.String(seed, key) ^ 31*maphash.String(seed, field) | 1<<63
}
