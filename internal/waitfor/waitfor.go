// Package waitfor knows which loads of this process wait for which, and keeps them
// from waiting for each other for ever.
//
// A load waits for the flights that it asks for. A flight waits for the load that
// flies it. That load may wait for a lease that another load of the process holds,
// and for room in a [Pool], which the loads in the Pool have to give. Together
// these are the edges of a wait-for graph. A cycle is found when its last edge is
// added, under one lock for the process, whatever caches it goes through.
//
// A cycle that leads through a Pool is no deadlock yet: the load that queues there
// goes on without room. In any other cycle nothing can move, so one of the waits
// for a flight is broken, the newest if it is one.
//
// A caller that no load has made waits for loads, and no load waits for it. So it
// never comes here, and nor does a hit.
package waitfor

import (
	"context"
	"sync"
	"sync/atomic"
)

// mu guards the edges of the graph. No other lock is taken under it.
var mu sync.Mutex

// A Load is one load under way, of the flights of one or several keys. The zero
// Load is one of no key.
type Load struct {
	group any // the Flights that it is of
	legs  []Leg
	above *Load // that asked for this one; nil if none did

	links  map[*Link]struct{} // guarded by mu: flights that it waits for
	lease  *Load              // guarded by mu: holds the lease that it waits for
	pool   *Pool              // guarded by mu: where it queues
	spared chan struct{}      // guarded by mu: closed when it need not queue any more
}

// A Leg is one key of a load.
type Leg struct {
	Key  string
	Done <-chan struct{} // closed when the flight has ended
}

// New returns a load of the legs in a group, which the load of ctx asks for, if
// ctx is that of one.
func New(ctx context.Context, group any, legs ...Leg) *Load {
	return &Load{group: group, legs: legs, above: From(ctx)}
}

type key struct{}

// With returns ctx as that of a load; of none if l is nil.
func With(ctx context.Context, l *Load) context.Context { return context.WithValue(ctx, key{}, l) }

// From returns the load whose ctx this is, nil if it is of none.
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

// A Flight is what loads wait for. Its zero value is ready.
type Flight struct {
	by atomic.Pointer[Load] // that flies it
}

// By says which load flies f. That must not wait for anything yet.
func (f *Flight) By(l *Load) { f.by.Store(l) }

// A Link is the wait of a load for a flight. A nil one is of a caller that is no
// load, which may wait for anything.
type Link struct {
	from   *Load
	to     *Flight       // guarded by mu
	broken chan struct{} // closed under mu
}

// Await adds the wait of the load of ctx for f. It returns nil if ctx is that of
// no load.
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

// Move makes the wait one for another flight.
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

// End takes the wait back.
func (k *Link) End() {
	if k == nil {
		return
	}
	mu.Lock()
	defer mu.Unlock()
	delete(k.from.links, k)
}

// Broken returns a channel that is closed when the load would wait for itself; nil
// if that cannot be.
func (k *Link) Broken() <-chan struct{} {
	if k == nil {
		return nil
	}
	return k.broken
}

// settle cuts all cycles through l. newest is the edge that has been added, if
// that is a Link. The caller holds mu.
func (l *Load) settle(newest *Link) {
	for {
		cycle := l.back(l, map[*Load]bool{}, nil)
		if cycle == nil || !cut(cycle, newest) {
			return
		}
	}
}

// An edge leads from a load to one that it waits for.
type edge struct {
	from *Load
	link *Link // nil: for a lease, or in a Pool
	pool bool
}

// back returns a path from l to a load, nil if there is none. The caller holds mu.
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

// cut takes one edge out of a cycle, and reports whether it could. The caller
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
