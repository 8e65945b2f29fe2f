package cachex

import (
	"bytes"
	"context"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/loader"
)

// chunksAtOnce is how many chunks of a call are under way at once. Each of them has at
// most one pipeline of 500 commands on its way to a server: with more of them, other
// callers would notice.
const chunksAtOnce = 4

// A split is the keys of a call in chunks of Spec.MaxKeys, so that the call needs no more
// memory than its result, some bytes for each key, and what a few chunks do.
type split[K comparable] struct {
	keys   []K
	size   int
	n      int    // keys that differ
	starts []int  // where in keys each chunk begins
	skip   []bool // keys that are in no chunk: they came before, or cannot be rendered; nil: none
	first  string // the first key as it is in Redis
	before int    // keys that differ before the first that cannot be rendered
	bad    error  // of that
}

// split finds the keys that differ. It keeps their hashes while it does, and not what
// they are in Redis: that takes more memory than anything else here.
func (c *Cache[K, V]) split(op string, keys []K) *split[K] {
	s := &split[K]{keys: keys, size: c.core.settings.maxKeys}
	seen := newHashes(len(keys))
	var b, other []byte
	for i, key := range keys {
		var err error
		if b, err = c.appendKey(b[:0], key); err == nil {
			err = c.key.Hashable(key) // the result is a map
		}
		if err != nil && s.bad == nil {
			s.bad, s.before = c.core.fail(op, "", err), s.n
		}
		if err != nil || !seen.add(b, i, func(at int) bool {
			other, _ = c.appendKey(other[:0], keys[at])
			return bytes.Equal(other, b)
		}) {
			if s.skip == nil {
				s.skip = make([]bool, len(keys))
			}
			s.skip[i] = true
			continue
		}
		if s.n == 0 {
			s.first = string(b)
		}
		if s.n%s.size == 0 {
			s.starts = append(s.starts, i)
		}
		s.n++
	}
	return s
}

// chunk returns a copy of the keys of a chunk.
func (s *split[K]) chunk(n int) []K {
	some := make([]K, 0, min(s.size, s.n-n*s.size))
	for i := s.starts[n]; len(some) < cap(some); i++ {
		if s.skip == nil || !s.skip[i] {
			some = append(some, s.keys[i])
		}
	}
	return some
}

// hashes is a set of the hashes of keys, with where they are.
type hashes struct{ table []hashOf }

type hashOf struct {
	hash uint32
	at   int32 // 1 + where the key is; 0: no key
}

// newHashes returns a set with room for n keys.
func newHashes(n int) *hashes {
	size := 8
	for size < n+n/2 {
		size *= 2
	}
	return &hashes{make([]hashOf, size)}
}

// add adds a key, unless it is there, and reports whether it is not. same reports whether
// it is the key at a place, which has the same hash.
func (h *hashes) add(key []byte, at int, same func(int) bool) bool {
	sum := maphash.Bytes(rowSeed, key)
	low := uint32(sum >> 32)
	slot := int(sum) & (len(h.table) - 1)
	for ; h.table[slot].at != 0; slot = (slot + 1) & (len(h.table) - 1) {
		if h.table[slot].hash == low && same(int(h.table[slot].at)-1) {
			return false
		}
	}
	h.table[slot] = hashOf{low, int32(at) + 1}
	return true
}

// chunked calls prepare for each of n chunks, and what that returns in a goroutine, for
// some chunks at once. It returns when all have ended. fail is given the error of a chunk
// that panicked, or was not begun since ctx had ended; not of two at once.
//
// It begins with a chunk at random. So processes that ask for the same keys at the same
// time begin at different places and share the work, in place of waiting for each other at
// every chunk.
func chunked(ctx context.Context, n, atOnce int, prepare func(chunk int) func(), fail func(chunk int, err error)) {
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

// manyChunks is many for more keys than are in one call of UpMany.
func (c *Cache[K, V]) manyChunks(ctx context.Context, op string, keys []K, zero bool, ask askMany[K, V]) (map[K]V, error) {
	s := c.split(op, keys)
	if err := c.core.admit(ctx, op); err != nil {
		tell(ctx, 0)
		return nil, err
	}
	defer c.core.calls.leave()
	f := found[K, V]{values: make(map[K]V, s.n), at: s.before, failed: s.bad}
	if s.n == 0 {
		return c.finish(ctx, nil, &f)
	}
	ctx, w := c.core.begin(ctx, op, s.first, s.n)
	var mu sync.Mutex // of f
	atOnce := c.atOnce(len(s.starts))
	chunked(ctx, len(s.starts), atOnce, func(n int) func() {
		ks, distinct, _, bad := c.renderAll(op, s.chunk(n))
		return func() {
			var answers []loader.Answer[V]
			if len(ks) > 0 {
				answers = ask(ctx, ks, distinct, atOnce)
			}
			mu.Lock()
			defer mu.Unlock()
			f.take(c, op, n*s.size, zero, ks, distinct, answers)
			f.fail(n*s.size+len(ks), bad) // of a key that could be rendered before
		}
	}, func(n int, err error) {
		mu.Lock()
		defer mu.Unlock()
		if n*s.size < f.at || f.failed == nil {
			k, _ := c.render(s.keys[s.starts[n]])
			f.fail(n*s.size, c.core.fail(op, k, err))
		}
	})
	return c.finish(ctx, w, &f)
}

// atOnce returns how many of n chunks are under way at once. Without UpMany the calls of Up
// are shared among them: see share.
func (c *Cache[K, V]) atOnce(n int) int { return max(min(n, chunksAtOnce, c.eachLimit()), 1) }

// setChunks is SetMany for more values than are in one call of DownMany. Chunks are set
// one after the other: two calls of DownMany at once might wait for each other in the
// system of record.
func (c *Cache[K, V]) setChunks(ctx context.Context, values map[K]V) error {
	for key, value := range values { // before anything is set
		if _, err := c.writingOf(key, value); err != nil {
			return err
		}
	}
	if err := c.core.admit(ctx, OpSetMany); err != nil {
		return err
	}
	defer c.core.calls.leave()
	var w *watch
	var failed error
	begun := false
	most := min(len(values), c.core.settings.maxKeys)
	ws, keys := make([]loader.Writing, 0, most), make([]K, 0, most)
	flush := func() error {
		if !begun {
			begun = true
			ctx, w = c.core.begin(ctx, OpSetMany, ws[0].Key, len(values))
		}
		some := make(map[K]V, len(keys))
		for _, key := range keys {
			some[key] = values[key]
		}
		err := c.setSome(ctx, ws, slices.Clone(keys), some)
		clear(ws)
		ws, keys = ws[:0], keys[:0]
		return err
	}
	for key, value := range values {
		var writing loader.Writing
		if writing, failed = c.writingOf(key, value); failed != nil {
			break
		}
		if ws, keys = append(ws, writing), append(keys, key); len(ws) < c.core.settings.maxKeys {
			continue
		}
		if failed = flush(); failed != nil {
			break
		}
	}
	if failed == nil && len(ws) > 0 {
		failed = flush()
	}
	if begun {
		w.end(ctx, 0, failed)
	}
	return failed
}
