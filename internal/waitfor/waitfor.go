// Package waitfor tracks which loads of this process wait for which, and
// prevents that they wait for each other for ever.
//
// A load waits for the flights that it asks for. A flight waits for the load
// that runs it. That load may wait for a lease that another load of the process
// holds, and for room in a [Pool], which the loads in the Pool must free. These
// are the edges of a wait-for graph. A cycle is found when its last edge is
// added, under one lock for the process, across all caches.
//
// A cycle through a Pool is not a deadlock yet: the load that queues there
// continues without room. In any other cycle no load can continue, so one of
// the waits for a flight is broken: the newest edge, if it is one.
//
// A caller outside any load waits for loads, but no load waits for it. So such
// a caller never enters the graph, and neither does a hit.
package waitfor

import (
	"context"
	"sync"
	"sync/atomic"
)

// mu guards the edges of the graph. No other lock is taken under it.
var mu sync.Mutex

// Load is one load in flight, of the flights of one or several keys. The zero
// Load has no key.
type Load struct {
	group any // the Flights that it belongs to
	legs  []Leg
	above *Load // the load that asked for it, or nil

	links  map[*Link]struct{} // guarded by mu: its waits for flights
	lease  *Load              // guarded by mu: holds the lease that it waits for
	pool   *Pool              // guarded by mu: where it queues
	spared chan struct{}      // guarded by mu: closed when it need not queue any more
}

// Leg is one key of a load.
type Leg struct {
	Key  string
	Done <-chan struct{} // closed when the flight has ended
}

// New returns a load of the legs in a group. If ctx belongs to a load, that
// load has asked for it.
func New(ctx context.Context, group any, legs ...Leg) *Load {
	return &Load{group: group, legs: legs, above: From(ctx)}
}

type key struct{}

// With returns ctx for a load; for no load if l is nil.
func With(ctx context.Context, l *Load) context.Context { return context.WithValue(ctx, key{}, l) }

// From returns the load that ctx belongs to, or nil.
func From(ctx context.Context) *Load {
	l, _ := ctx.Value(key{}).(*Load)
	return l
}

// Loads reports whether l, or a load above it, loads a key of the group.
func (l *Load) Loads(group any, key string) bool {
	for ; l != nil; l = l.above {
		for _, g := range l.legs {
			if l.group == group && g.Key == key && !over(g.Done) {
				return true
			}
		}
	}
	return false
}

// Nested reports whether a load of the same group has asked for l.
func (l *Load) Nested() bool {
	for a := l.above; a != nil; a = a.above {
		if a.group == l.group {
			return true
		}
	}
	return false
}

func over(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// Flight is the object that loads wait for. Its zero value is ready.
type Flight struct {
	by atomic.Pointer[Load] // the load that runs it
}

// By sets the load that runs f. That load must not wait yet.
func (f *Flight) By(l *Load) { f.by.Store(l) }

// Link is the wait of a load for a flight. A nil Link belongs to a caller
// outside any load, which may wait for anything.
type Link struct {
	from   *Load
	to     *Flight       // guarded by mu
	broken chan struct{} // closed under mu
}

// Await adds the wait of the load of ctx for f. It returns nil if ctx belongs
// to no load.
func Await(ctx context.Context, f *Flight) *Link {
	from := From(ctx)
	if from == nil {
		return nil
	}
	k := &Link{from: from, to: f, broken: make(chan struct{})}
	mu.Lock()
	defer mu.Unlock()
	if from.links == nil {
		from.links = make(map[*Link]struct{})
	}
	from.links[k] = struct{}{}
	from.settle(k)
	return k
}

// Move redirects the wait to another flight.
func (k *Link) Move(to *Flight) {
	if k == nil {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	if k.to = to; !over(k.broken) {
		k.from.settle(k)
	}
}

// End removes the wait.
func (k *Link) End() {
	if k == nil {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	delete(k.from.links, k)
}

// Broken returns a channel that is closed when the load would wait for itself;
// nil if that is impossible.
func (k *Link) Broken() <-chan struct{} {
	if k == nil {
		return nil
	}
	return k.broken
}

// settle breaks all cycles through l. newest is the added edge if it is a Link.
// The caller holds mu.
func (l *Load) settle(newest *Link) {
	for {
		cycle := l.back(l, map[*Load]bool{}, nil)
		if cycle == nil || !cut(cycle, newest) {
			return
		}
	}
}

// edge leads from a load to one that it waits for.
type edge struct {
	from *Load
	link *Link // nil: for a lease, or in a Pool
	pool bool
}

// back returns a path from l to the load to, or nil. The caller holds mu.
func (l *Load) back(to *Load, seen map[*Load]bool, path []edge) []edge {
	step := func(e edge, next *Load) []edge {
		if next == nil || seen[next] {
			return nil
		}
		there := append(path[:len(path):len(path)], e)
		if next == to {
			return there
		}
		seen[next] = true
		return next.back(to, seen, there)
	}
	for k := range l.links {
		if cycle := step(edge{from: l, link: k}, k.to.by.Load()); cycle != nil {
			return cycle
		}
	}
	if cycle := step(edge{from: l}, l.lease); cycle != nil {
		return cycle
	}
	if l.pool != nil {
		for inside := range l.pool.in {
			if cycle := step(edge{from: l, pool: true}, inside); cycle != nil {
				return cycle
			}
		}
	}
	return nil
}

// cut removes one edge of a cycle, and reports whether it could. The caller
// holds mu.
func cut(cycle []edge, newest *Link) bool {
	var link *Link
	for _, e := range cycle {
		switch {
		case e.pool:
			close(e.from.spared)
			e.from.pool = nil
			return true
		case e.link != nil && (link == nil || e.link == newest):
			link = e.link
		}
	}
	if link == nil {
		return false
	}
	close(link.broken)
	delete(link.from.links, link)
	return true
}
