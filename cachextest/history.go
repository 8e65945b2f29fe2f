package cachextest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
)

// Repository is code that reads and writes values, with or without caches. A
// test gives the values versions: 1, 2 and so on for each key.
type Repository struct {
	// Read returns the version of the value that a reader of key gets, or 0 if
	// there is no value. Required.
	Read func(ctx context.Context, key int) (version int64, err error)

	// Write stores a version in the database, and updates or invalidates the
	// caches. It returns when no reader can get an older version any more.
	// Required.
	Write func(ctx context.Context, key int, version int64) error
}

// History says how thoroughly a Repository is tested.
type History struct {
	// Keys is the number of keys. Fewer keys make more races. Defaults to 4.
	Keys int

	// Readers is the number of goroutines that read, in each process. Defaults
	// to 4.
	Readers int

	// Writers is the number of goroutines that write, in each process. A key
	// has one writer at a time. Defaults to 1.
	Writers int

	// Operations is the total number of reads and writes. Defaults to 2,000.
	Operations int
}

// Require reads and writes at the same time through processes that share a
// database and a Redis. The test fails if a read that began after a Write
// returned nil gets an older version. It also fails if a read gets a version
// that was never written. So Require finds a cache that stores, after an
// invalidation, a value that it loaded before it.
//
// A Write that returns an error may or may not have stored its version. Reads
// that return an error are not checked, but if all do, the test fails. A
// failure shows the last operations on the key.
//
// docs/reliability.md answers the same question for cachex itself. A run
// without a fault proves nothing about interleavings that did not occur.
func (h History) Require(t testing.TB, processes ...Repository) {
	t.Helper()
	h.Keys, h.Readers, h.Writers = positive(h.Keys, 4), positive(h.Readers, 4), positive(h.Writers, 1)
	r := &run{keys: make([]keyHistory, h.Keys)}
	r.left.Store(int64(positive(h.Operations, 2000)))
	for at, p := range processes {
		for range h.Readers {
			r.start(func(ctx context.Context, key int) { r.read(ctx, at, p, key) })
		}
		for range h.Writers {
			r.start(func(ctx context.Context, key int) { r.write(ctx, at, p, key) })
		}
	}
	r.wg.Wait()
	switch fault := r.fault.Load(); {
	case fault != nil:
		t.Fatalf("cachextest: %s", *fault)
	case r.reads.Load() == 0:
		t.Fatalf("cachextest: no read has succeeded: %v", r.failed.Load())
	}
}

// run is one call of Require.
type run struct {
	keys  []keyHistory
	wg    sync.WaitGroup
	left  atomic.Int64 // operations still to do
	clock atomic.Int64 // counts the starts and ends of operations

	reads  atomic.Int64           // that returned a version
	failed atomic.Value           // the last error, as a failure
	fault  atomic.Pointer[string] // nil while no fault was found
}

// failure makes errors of all types one type, for atomic.Value.
type failure struct{ error }

// keyHistory has the versions of one key, and the last operations on it.
type keyHistory struct {
	writing sync.Mutex   // held by the writer
	begun   atomic.Int64 // the last version whose Write has started
	written atomic.Int64 // the last version whose Write has returned nil

	mu   sync.Mutex
	last []string // guarded by mu: the last operations
}

// lastShown is the number of operations that a failure shows.
const lastShown = 20

func (k *keyHistory) note(what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = append(k.last[max(0, len(k.last)-lastShown+1):], what)
}

// start operates in a goroutine, which Require waits for. If the repository
// panics or calls runtime.Goexit, that is a fault.
func (r *run) start(operate func(ctx context.Context, key int)) {
	r.wg.Add(1)
	guard.Go(repository, func() error { r.repeat(operate); return nil }, func(err error) {
		if err != nil {
			text := err.Error()
			if p, ok := errors.AsType[*guard.PanicError](err); ok {
				text = fmt.Sprintf("%v: %v\n%s", err, p.Value, p.Stack)
			}
			r.fault.CompareAndSwap(nil, &text)
		}
		r.wg.Done()
	})
}

var repository = guard.Named("the Repository")

// repeat operates on random keys until all operations are done or a fault is
// found. It pauses now and then, so that goroutines overlap in different ways.
func (r *run) repeat(operate func(ctx context.Context, key int)) {
	for r.left.Add(-1) >= 0 && r.fault.Load() == nil {
		operate(context.Background(), rand.IntN(len(r.keys)))
		if rand.IntN(8) == 0 {
			time.Sleep(rand.N(200 * time.Microsecond))
		}
	}
}

func (r *run) read(ctx context.Context, at int, p Repository, key int) {
	k := &r.keys[key]
	least, began := k.written.Load(), r.clock.Add(1)
	version, err := p.Read(ctx, key)
	if err != nil {
		r.failed.Store(failure{err})
		return
	}
	r.reads.Add(1)
	k.note(fmt.Sprintf("[%d, %d] process %d reads version %d", began, r.clock.Add(1), at, version))
	switch most := k.begun.Load(); {
	case version < least:
		r.found(k, fmt.Sprintf("a read of key %d that began after version %d was written has version %d", key, least, version))
	case version > most:
		r.found(k, fmt.Sprintf("a read of key %d has version %d, and version %d is the last that was written", key, version, most))
	}
}

func (r *run) write(ctx context.Context, at int, p Repository, key int) {
	k := &r.keys[key]
	k.writing.Lock()
	defer k.writing.Unlock()
	version, began := k.begun.Add(1), r.clock.Add(1)
	err := p.Write(ctx, key, version)
	k.note(fmt.Sprintf("[%d, %d] process %d writes version %d: %v", began, r.clock.Add(1), at, version, err))
	if err == nil {
		k.written.Store(version)
	}
}

// found records a fault, if it is the first one.
func (r *run) found(k *keyHistory, what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	text := what + "\n\t" + strings.Join(k.last, "\n\t")
	r.fault.CompareAndSwap(nil, &text)
}

// positive returns n, or def if n is not positive.
func positive(n, def int) int {
	if n <= 0 {
		return def
	}
	return n
}
