package cachextest

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/cachex-go/cachex"
)

// Source is a database for tests: it holds a value for each key, counts loads,
// and fails or blocks on demand. Its methods Up, UpMany, Down and DownMany are
// the hooks of a [cachex.Spec] with these names. It is safe for concurrent use.
type Source[K comparable, V any] struct {
	mu      sync.Mutex
	rows    map[K]V       // guarded by mu
	loads   map[K]int     // guarded by mu
	writes  map[K]int     // guarded by mu
	failing error         // guarded by mu; nil if calls succeed
	blocked chan struct{} // guarded by mu; nil if calls do not wait
	waiting int           // guarded by mu: loads that wait in Block
	arrived chan struct{} // guarded by mu; closed and replaced when waiting changes
}

// NewSource returns an empty Source.
func NewSource[K comparable, V any]() *Source[K, V] {
	return &Source[K, V]{
		rows: make(map[K]V), loads: make(map[K]int), writes: make(map[K]int), arrived: make(chan struct{}),
	}
}

// Put stores a value, as another program that writes to the database would.
func (s *Source[K, V]) Put(key K, value V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows[key] = value
}

// Remove removes a value. Loads of it then return cachex.ErrNotFound.
func (s *Source[K, V]) Remove(key K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.rows, key)
}

// Value returns the value of a key, and whether it exists. It counts no load.
func (s *Source[K, V]) Value(key K) (V, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.rows[key]
	return v, ok
}

// Fail makes every load and write return err, until Fail(nil). Failed loads are
// counted too.
func (s *Source[K, V]) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = err
}

// Block makes loads wait, after they have read the database, until release is
// called or their ctx ends. So a test decides what happens between the read and
// the store.
func (s *Source[K, V]) Block() (release func()) {
	blocked := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocked = blocked
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.blocked == blocked {
			s.blocked = nil
		}
		close(blocked)
	})
}

// AwaitBlocked returns nil when n loads wait in Block. If ctx ends first, it
// returns an error that wraps the cause.
func (s *Source[K, V]) AwaitBlocked(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		waiting, arrived := s.waiting, s.arrived
		s.mu.Unlock()
		if waiting >= n {
			return nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return fmt.Errorf("cachex: cachextest: %d of %d loads are blocked: %w", waiting, n, context.Cause(ctx))
		}
	}
}

// Loads returns how often a key was loaded, by Up or by UpMany. Failed loads
// count too.
func (s *Source[K, V]) Loads(key K) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loads[key]
}

// Writes returns how often Down or DownMany have stored a key.
func (s *Source[K, V]) Writes(key K) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes[key]
}

// Up is for Spec.Up. If the value does not exist, it returns
// cachex.ErrNotFound.
func (s *Source[K, V]) Up(ctx context.Context, key K) (V, error) {
	found, err := s.UpMany(ctx, []K{key})
	v, ok := found[key]
	if err == nil && !ok {
		err = cachex.ErrNotFound
	}
	return v, err
}

// UpMany is for Spec.UpMany. It omits keys without a value.
func (s *Source[K, V]) UpMany(ctx context.Context, keys []K) (map[K]V, error) {
	return s.load(ctx, keys, func() map[K]V { return s.rows })
}

// load reads rows of the database or of a replica.
func (s *Source[K, V]) load(ctx context.Context, keys []K, rows func() map[K]V) (map[K]V, error) {
	s.mu.Lock()
	found := make(map[K]V, len(keys))
	for _, key := range keys {
		s.loads[key]++
		if v, ok := rows()[key]; ok {
			found[key] = v
		}
	}
	blocked, err := s.blocked, s.failing
	if blocked != nil {
		s.wait(1)
	}
	s.mu.Unlock()
	if blocked != nil {
		select {
		case <-blocked:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		s.mu.Lock()
		s.wait(-1)
		s.mu.Unlock()
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// wait adds n to the number of loads that wait in Block. The caller holds mu.
func (s *Source[K, V]) wait(n int) {
	s.waiting += n
	close(s.arrived)
	s.arrived = make(chan struct{})
}

// Down is for Spec.Down.
func (s *Source[K, V]) Down(ctx context.Context, key K, value V) error {
	return s.DownMany(ctx, map[K]V{key: value})
}

// DownMany is for Spec.DownMany. It stores all values or none.
func (s *Source[K, V]) DownMany(_ context.Context, values map[K]V) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing != nil {
		return s.failing
	}
	for key := range values {
		s.writes[key]++
	}
	maps.Copy(s.rows, values)
	return nil
}

// Replica returns a replica of the current database. It lags until CatchUp.
func (s *Source[K, V]) Replica() *Replica[K, V] {
	r := &Replica[K, V]{of: s}
	r.CatchUp()
	return r
}

// Replica is a copy of a Source that lags. The Source counts, fails and blocks
// the loads of its replicas too. It is safe for concurrent use.
type Replica[K comparable, V any] struct {
	of   *Source[K, V]
	rows map[K]V // guarded by of.mu
}

// CatchUp brings the replica up to date.
func (r *Replica[K, V]) CatchUp() {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	r.rows = maps.Clone(r.of.rows)
}

// Up is for Spec.Up of a cache that loads from the replica.
func (r *Replica[K, V]) Up(ctx context.Context, key K) (V, error) {
	found, err := r.UpMany(ctx, []K{key})
	v, ok := found[key]
	if err == nil && !ok {
		err = cachex.ErrNotFound
	}
	return v, err
}

// UpMany is for Spec.UpMany of a cache that loads from the replica.
func (r *Replica[K, V]) UpMany(ctx context.Context, keys []K) (map[K]V, error) {
	return r.of.load(ctx, keys, func() map[K]V { return r.rows })
}
