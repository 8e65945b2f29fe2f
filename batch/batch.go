// Package batch reads values of several caches, of different types, in one
// round trip.
//
//	var b batch.Batch
//	session := batch.Get(&b, sessions, userID)
//	views := batch.GetMany(&b, views, jobIDs)
//	if err := b.Run(ctx); err != nil {
//		return err
//	}
//	s, err := session.Get()
//
// Missing values are loaded as by Get and GetMany of their caches: once for the
// whole fleet, and by UpMany if it is set. All caches load at the same time.
package batch

import (
	"cmp"
	"context"
	"errors"
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/cachex-go/cachex/internal/errs"
	keys "github.com/cachex-go/cachex/internal/key"
)

// Batch is a list of reads. Its zero value is ready to use. A Batch is for one
// use, by one goroutine: first Get and GetMany, then Run, then the Values.
// After Run, several goroutines may read the Values. A Batch must not be
// copied.
type Batch struct {
	state atomic.Int32
	reads []sourceReads
}

// States of a Batch.
const (
	open int32 = iota
	running
	done
)

var (
	// ErrNotRun is the error of a Value that is read before Run has returned.
	ErrNotRun = errors.New("cachex: batch: Run has not returned yet")

	// ErrUsed is the error of a second Run, and of a Value added after the
	// first Run: a Batch is for one use.
	ErrUsed = errors.New("cachex: batch: a Batch is for one use, and Run was called before")

	// ErrNilSource is the error of a Value whose source is nil.
	ErrNilSource = errors.New("cachex: batch: the source is nil")

	// ErrNilBatch is the error of a Value whose Batch is nil, and of Run on a
	// nil Batch.
	ErrNilBatch = errors.New("cachex: batch: the Batch is nil")
)

// Value is the future result of one Get or GetMany. The zero value is never
// read: its Get returns ErrNotRun.
type Value[V any] struct {
	b       *Batch       // nil if the read was refused with err
	answers *[]answer[V] // of its source; set by Run
	at      int          // index in answers
	err     error
}

// Get returns the value or the error of its own key, regardless of other keys.
// It is the result of Get of the source, ErrNotFound for example. For a Value
// of GetMany, it is the error of the first of its keys that failed. The map is
// valid even then: it has every value that could be read or loaded. Before Run
// has returned, the error is ErrNotRun.
func (v *Value[V]) Get() (V, error) {
	if v.b != nil && v.b.state.Load() == done {
		a := &(*v.answers)[v.at]
		return a.v, a.err
	}
	var zero V
	return zero, cmp.Or(v.err, ErrNotRun)
}

// Get adds key to b. The Value is set when Run has returned. A key added twice
// for the same source is read once.
func Get[K comparable, V any](b *Batch, src Source[K, V], key K) *Value[V] {
	s, err := readsFor(b, src)
	if err != nil {
		return &Value[V]{err: err}
	}
	return &Value[V]{b: b, answers: &s.answers, at: s.add(key)}
}

// GetMany adds keys to b. When Run has returned, the Value has a map of the
// existing values.
func GetMany[K comparable, V any](b *Batch, src Source[K, V], keys []K) *Value[map[K]V] {
	s, err := readsFor(b, src)
	if err != nil {
		return &Value[map[K]V]{err: err}
	}
	at := make([]int, len(keys))
	s.reserve(len(keys))
	for i, key := range keys {
		at[i] = s.add(key)
	}
	l := &manyRequest[K, V]{at: at}
	s.requests = append(s.requests, l)
	return &Value[map[K]V]{b: b, answers: &l.result}
}

// sourceReads is the reads of one source.
type sourceReads interface {
	isFor(src any) bool
	prepare() *sourceReader // nil if there is nothing to read
	deliver()               // sets the Values of GetMany
}

// typedReads is the reads of one source with keys of type K.
type typedReads[K comparable, V any] struct {
	src      Source[K, V]
	keys     []K
	seen     map[K]int // index of each key in keys; nil while there are few
	hides    bool      // see key.Hides
	answers  []answer[V]
	requests []*manyRequest[K, V]
}

type answer[V any] struct {
	v   V
	err error
}

// manyRequest is one GetMany: the indexes of its keys, and its result.
type manyRequest[K comparable, V any] struct {
	at     []int
	result []answer[map[K]V] // one element
}

// readsFor returns the reads of src in b, or the error of the Value.
func readsFor[K comparable, V any](b *Batch, src Source[K, V]) (*typedReads[K, V], error) {
	switch {
	case b == nil:
		return nil, ErrNilBatch
	case isNil(src):
		return nil, ErrNilSource
	case b.state.Load() != open:
		return nil, ErrUsed
	}
	for _, p := range b.reads {
		if s, ok := p.(*typedReads[K, V]); ok && s.isFor(src) {
			return s, nil
		}
	}
	s := &typedReads[K, V]{src: src, hides: keys.Hides[K]()}
	b.reads = append(b.reads, s)
	return s, nil
}

// isNil reports whether src is nil or holds a nil pointer.
func isNil(src any) bool {
	v := reflect.ValueOf(src)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

// isFor reports whether s reads src. A source that is not comparable gets new
// reads each time.
func (s *typedReads[K, V]) isFor(src any) bool {
	return reflect.ValueOf(src).Comparable() && any(s.src) == src
}

// maxLinear is the largest number of keys that is searched linearly; a map
// costs more.
const maxLinear = 32

// reserve makes room for n more keys.
func (s *typedReads[K, V]) reserve(n int) {
	s.keys = slices.Grow(s.keys, n)
	if n += len(s.keys); n > maxLinear && s.seen == nil {
		s.seen = make(map[K]int, n)
		for at, key := range s.keys {
			if s.hashable(key) == nil {
				s.seen[key] = at
			}
		}
	}
}

// hashable returns nil if key can be the key of a map.
func (s *typedReads[K, V]) hashable(key K) error {
	if s.hides {
		return keys.Hashable(key)
	}
	return nil
}

// add adds key unless it is present, and returns its index.
func (s *typedReads[K, V]) add(key K) int {
	if s.hashable(key) != nil { // the key cannot even be compared
		s.keys = append(s.keys, key)
		return len(s.keys) - 1
	}
	if s.seen == nil {
		if at := slices.Index(s.keys, key); at >= 0 {
			return at
		}
		if len(s.keys) == maxLinear {
			s.reserve(maxLinear)
		}
	} else if at, ok := s.seen[key]; ok {
		return at
	}
	at := len(s.keys)
	if s.keys = append(s.keys, key); s.seen != nil {
		s.seen[key] = at
	}
	return at
}

func (s *typedReads[K, V]) prepare() *sourceReader {
	s.answers = make([]answer[V], len(s.keys))
	for i := range s.answers {
		s.answers[i].err = errUnanswered
	}
	if len(s.keys) == 0 {
		return nil
	}
	r := &sourceReader{failUnanswered: s.failUnanswered}
	r.begin = func(ctx context.Context) Reading {
		return s.src.BatchRead(ctx, s.keys, func(i int, v V, err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if a := &s.answers[i]; !r.closed && a.err == errUnanswered { // the first answer counts
				if a.err = err; err == nil {
					a.v = v
				}
				r.incomplete = r.incomplete || err != nil && !errors.Is(err, errs.ErrNotFound)
			}
		})
	}
	return r
}

func (s *typedReads[K, V]) failUnanswered(err error) (some bool) {
	for i := range s.answers {
		if a := &s.answers[i]; a.err == errUnanswered {
			a.err, some = err, true
		}
	}
	return some
}

func (s *typedReads[K, V]) deliver() {
	for _, l := range s.requests {
		all := answer[map[K]V]{v: make(map[K]V, len(l.at))}
		for _, at := range l.at {
			switch a := &s.answers[at]; {
			case a.err == nil && s.hashable(s.keys[at]) == nil:
				all.v[s.keys[at]] = a.v
			case a.err == nil:
				all.err = cmp.Or(all.err, wrapErr(keys.ErrUnhashable))
			case all.err == nil && !errors.Is(a.err, errs.ErrNotFound):
				all.err = a.err
			}
		}
		l.result = []answer[map[K]V]{all}
	}
}
