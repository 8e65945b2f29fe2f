package gather

import (
	"hash/maphash"
	"sync/atomic"
)

// large remembers some of the keys whose last known value was large. It may
// confuse another key with one of them, which is then sent alone.
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

// note records the size of the key's value.
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
