package cachex

import (
	"bytes"
	"context"
	"hash/maphash"
	"math/rand/v2"
	"sync"

	"github.com/cachex-go/cachex/internal/guard"
)

// chunksAtOnce is how many chunks of a call are under way at once. Each of them has at
// most one pipeline of 500 commands on its way to a server: with more of them, other
// callers would notice.
const maxActiveChunks = 4

// A split is the keys of a call in chunks of Spec.MaxKeys, so that the call needs no more
// memory than its result, some bytes for each key, and what a few chunks do.
type keyChunks struct {
	size      int
	distinct  int    // keys that differ
	starts    []int  // where in the keys of the call each chunk begins
	skip      []bool // keys that are in no chunk: they came before, or cannot be rendered; nil: none
	first     string // the first key as it is in Redis
	beforeBad int    // keys that differ before the first that cannot be rendered
	bad       error  // of that
}

// split finds the keys that differ. It keeps their hashes while it does, and not what
// they are in Redis: that takes more memory than anything else here.
func (c *core) splitKeys(op string, from keySource) *keyChunks {
	n := from.len()
	s := &keyChunks{size: c.settings.maxKeys}
	seen := newHashIndex(n)
	var b, other []byte
	for i := range n {
		var err error
		if b, err = from.append(b[:0], i); err != nil && s.bad == nil {
			s.bad, s.beforeBad = c.fail(op, "", err), s.distinct
		}
		if err != nil || !seen.add(b, i, func(at int) bool {
			other, _ = from.append(other[:0], at)
			return bytes.Equal(other, b)
		}) {
			if s.skip == nil {
				s.skip = make([]bool, n)
			}
			s.skip[i] = true
			continue
		}
		if s.distinct == 0 {
			s.first = string(b)
		}
		if s.distinct%s.size == 0 {
			s.starts = append(s.starts, i)
		}
		s.distinct++
	}
	return s
}

// chunk returns where the keys of a chunk are.
func (s *keyChunks) chunk(n int) []int {
	some := make([]int, 0, min(s.size, s.distinct-n*s.size))
	for i := s.starts[n]; len(some) < cap(some); i++ {
		if s.skip == nil || !s.skip[i] {
			some = append(some, i)
		}
	}
	return some
}

// hashes is a set of the hashes of keys, with where they are.
type hashIndex struct{ table []hashSlot }

type hashSlot struct {
	hash uint32
	at   int32 // 1 + where the key is; 0: no key
}

// newHashes returns a set with room for n keys.
func newHashIndex(n int) *hashIndex {
	size := 8
	for size < n+n/2 {
		size *= 2
	}
	return &hashIndex{make([]hashSlot, size)}
}

// add adds a key, unless it is there, and reports whether it is not. same reports whether
// it is the key at a place, which has the same hash.
func (h *hashIndex) add(key []byte, at int, same func(int) bool) bool {
	sum := maphash.Bytes(hashSeed, key)
	low := uint32(sum >> 32)
	slot := int(sum) & (len(h.table) - 1)
	for ; h.table[slot].at != 0; slot = (slot + 1) & (len(h.table) - 1) {
		if h.table[slot].hash == low && same(int(h.table[slot].at)-1) {
			return false
		}
	}
	h.table[slot] = hashSlot{low, int32(at) + 1}
	return true
}

// chunked calls prepare for each of n chunks, and what that returns in a goroutine, for
// some chunks at once. It returns when all have ended. fail is given the error of a chunk
// that panicked, or was not begun since ctx had ended; not of two at once.
//
// It begins with a chunk at random. So processes that ask for the same keys at the same
// time begin at different places and share the work, in place of waiting for each other at
// every chunk.
func runChunks(ctx context.Context, n, atOnce int, prepare func(chunk int) func(), fail func(chunk int, err error)) {
	var mu sync.Mutex // of fail
	places := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	defer running.Wait() // though prepare panics
	failed := func(chunk int, err error) {
		mu.Lock()
		defer mu.Unlock()
		fail(chunk, err)
	}
	first := rand.IntN(n)
	for i := range n {
		chunk := (first + i) % n
		if ctx.Err() != nil {
			failed(chunk, context.Cause(ctx))
			continue
		}
		do := prepare(chunk)
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			failed(chunk, context.Cause(ctx))
			continue
		}
		running.Add(1)
		guard.Go(guard.Client, func() error { do(); return nil }, func(err error) { // ends with do, which heeds ctx
			if err != nil {
				failed(chunk, err)
			}
			<-places
			running.Done()
		})
	}
}

// chunks is many for more keys than are in one call of UpMany.
func (m *manyRead) readChunks(ctx context.Context) error {
	c := m.c
	s := c.splitKeys(m.op, m.keys)
	if err := c.admit(ctx, m.op); err != nil {
		setOutcome(ctx, 0)
		return err
	}
	defer c.calls.exit()
	m.errAt, m.err = s.beforeBad, s.bad
	m.into.begin(s.distinct)
	if s.distinct == 0 {
		return m.finish(ctx, nil)
	}
	ctx, obs := c.observe(ctx, m.op, s.first, s.distinct)
	var mu sync.Mutex // of m.found
	atOnce := c.activeChunks(len(s.starts))
	runChunks(ctx, len(s.starts), atOnce, func(n int) func() {
		rkeys, is, _, bad := c.renderDistinct(m.op, m.keys, s.chunk(n))
		return func() {
			if len(rkeys) > 0 {
				answers, boxes := m.read(ctx, rkeys, is, atOnce)
				mu.Lock()
				defer mu.Unlock()
				m.collect(n*s.size, rkeys, is, answers)
				boxes.free()
			} else {
				mu.Lock()
				defer mu.Unlock()
			}
			m.recordError(n*s.size+len(rkeys), bad) // of a key that could be rendered before
		}
	}, func(n int, err error) {
		mu.Lock()
		defer mu.Unlock()
		if n*s.size < m.errAt || m.err == nil {
			k, _ := m.keys.append(nil, s.starts[n])
			m.recordError(n*s.size, c.fail(m.op, string(k), err))
		}
	})
	return m.finish(ctx, obs)
}

// atOnce returns how many of n chunks are under way at once. Without UpMany the calls of Up
// are shared among them: see share.
func (c *core) activeChunks(n int) int { return max(min(n, maxActiveChunks, c.maxUpCalls()), 1) }
