package client

import (
	"runtime"
	"sync"
	"weak"

	"github.com/redis/go-redis/v9"
)

// Shared holds a T for each client, which all users of the client share. It
// keeps neither alive: when no user refers to the T, both can be collected,
// even if no user has released it. The zero value is ready to use. It is safe
// for concurrent use.
//
// A T must not be reachable from its client.
type Shared[T any] struct {
	mu sync.Mutex
	m  map[redis.UniversalClient]weak.Pointer[T] // guarded by mu
}

// For returns the T of rdb, or makes one with create. If join is not nil, it
// calls join with the T, before any other call of For or Release can run. A
// client that is not comparable gets a new T each time.
func (s *Shared[T]) For(rdb redis.UniversalClient, create func() *T, join func(*T)) *T {
	s.mu.Lock()
	defer s.mu.Unlock()
	comparable := Comparable(rdb)
	var t *T
	if comparable {
		t = s.m[rdb].Value()
	}
	if t == nil {
		t = create()
		if comparable {
			if s.m == nil {
				s.m = make(map[redis.UniversalClient]weak.Pointer[T])
			}
			s.m[rdb] = weak.Make(t)
			runtime.AddCleanup(t, s.forget, rdb)
		}
	}
	if join != nil {
		join(t)
	}
	return t
}

// Release calls leave, which reports whether the last user has left. If so, the
// next For of rdb makes a new T. Release returns the result of leave.
func (s *Shared[T]) Release(rdb redis.UniversalClient, t *T, leave func() (last bool)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := leave()
	if last && Comparable(rdb) && s.m[rdb].Value() == t {
		delete(s.m, rdb)
	}
	return last
}

// forget drops a client whose T was collected, unless the client has a new one.
func (s *Shared[T]) forget(rdb redis.UniversalClient) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m[rdb].Value() == nil {
		delete(s.m, rdb)
	}
}
