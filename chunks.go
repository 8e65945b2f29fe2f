package cachex

import (
	"bytes"
	"context"
	"hash/maphash"
	"math/rand/v2"
	"sync"

	"github.com/cachex-go/cachex/internal/guard"
)

// maxActiveChunks is the number of chunks of a call that run at the same time.
// Each has at most one pipeline of 500 commands in flight to a server. With
// more chunks, other callers would notice.
const maxActiveChunks = 4

// keyChunks divides the keys of a call into chunks of Spec.MaxKeys. The call
// then needs memory for its result, for a few bytes per key, and for the
// running chunks.
type keyChunks struct {
	size      int
	distinct  int    // number of distinct keys
	starts    []int  // index in the keys of the call where each chunk begins
	skip      []bool // keys in no chunk: duplicates, and keys that cannot be rendered; may be nil
	first     string // the first key in Redis
	beforeBad int    // number of distinct keys before the first that cannot be rendered
	bad       error  // the error of that key
}

// splitKeys finds the distinct keys. It remembers their hashes but not the
// rendered keys, which would take more memory than everything else here.
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

// chunk returns the indexes of the keys of chunk n.
func (s *keyChunks) chunk(n int) []int {
	some := make([]int, 0, min(s.size, s.distinct-n*s.size))
	for i := s.starts[n]; len(some) < cap(some); i++ {
		if s.skip == nil || !s.skip[i] {
			some = append(some, i)
		}
	}
	return some
}

// hashIndex maps the hash of each key to its index.
type hashIndex struct{ table []hashSlot }

type hashSlot struct {
	hash uint32
	at   int32 // 1 + the index of the key; 0 if the slot is empty
}

// newHashIndex returns a hashIndex with room for n keys.
func newHashIndex(n int) *hashIndex {
	size := 8
	for size < n+n/2 {
		size *= 2
	}
	return &hashIndex{make([]hashSlot, size)}
}

// add adds a key and returns true, or returns false if it is present. same
// reports whether the key at an index with the same hash is equal to key.
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

// runChunks calls prepare for each of n chunks, and runs the returned function
// on a goroutine, at most atOnce at a time. It returns when all have ended. If
// a chunk panics, or is not begun because ctx has ended, runChunks calls fail,
// never concurrently.
//
// It begins with a random chunk. Processes that ask for the same keys at the
// same time then begin at different places and share the work. Otherwise they
// would wait for each other at every chunk.
func runChunks(ctx context.Context, n, atOnce int, prepare func(chunk int) func(), fail func(chunk int, err error)) {
	var mu sync.Mutex // serializes fail
	places := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	defer running.Wait() // even if prepare panics
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

// readChunks is readMany for more than Spec.MaxKeys keys.
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
	var mu sync.Mutex // guards m.manyResult
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
			m.recordError(n*s.size+len(rkeys), bad) // the error of a key that was rendered before
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

// activeChunks returns how many of n chunks run at the same time. Without
// UpMany they share the calls of Up: see loadPlan.
func (c *core) activeChunks(n int) int { return max(min(n, maxActiveChunks, c.maxUpCalls()), 1) }
