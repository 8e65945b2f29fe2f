package loader

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Loaded is what a load returns for one key: a value and how long it lives, or
// an error, as Func does.
type Loaded[V any] struct {
	Value V
	Life  Life
	Err   error
}

// A ManyFunc loads the values of several keys, which it is given as indices into
// the keys of the call of GetMany. It returns as many results, in the same order.
type ManyFunc[V any] func(ctx context.Context, keys []int) []Loaded[V]

// An Answer is what GetMany returns for one key.
type Answer[V any] struct {
	Value   V
	Outcome Outcome
	Err     error // as that of Get
}

// GetMany is Get for several keys, which must differ. What is in Redis comes in one
// round trip, the others are loaded by one call of load, and that is stored in one
// more. Every key has a flight and a lease of its own: who asks for some of them
// at the same time, here or in another process, by GetMany or by Get, shares the
// load of these and no more.
//
// The leases cost a round trip by themselves, unless they are asked for at once
// in place of reading. A Loader does that as long as most keys that it is asked
// for are missing, and at first; but not if StaleWhileRevalidate is set, since who
// is granted a lease on a stale value would have to wait for the load.
//
// If limit is not 0, load is called with one key at a time, by at most so many
// goroutines, and each key is answered and stored by itself.
//
// Every key has its own answer. If load panics or returns too little, the keys
// concerned get an error.
func (l *Loader[V]) GetMany(ctx context.Context, keys []string, limit int, load ManyFunc[V]) []Answer[V] {
	c := &many[V]{l: l, ctx: ctx, keys: keys, load: load, limit: limit, aim: l.usual()}
	c.answers = make([]Answer[V], len(keys))
	c.members = make([]*member[V], len(keys))
	c.sights = make([]sight, len(keys))
	asked := c.join()
	if limit > 0 || l.swr > 0 || !l.cold.Load() {
		asked = c.read(asked)
	}
	c.board(asked)
	c.wait()
	return c.answers
}

// LookupMany is Find for several keys, in one round trip.
func (l *Loader[V]) LookupMany(ctx context.Context, keys []string) []Answer[V] {
	answers := make([]Answer[V], len(keys))
	l.readMany(ctx, keys, func(i int, b []byte, err error) {
		v, s := l.see(keys[i], b, err, false)
		a := &answers[i]
		a.Value, a.Outcome, a.Err = l.looked(ctx, v, s)
	})
	return answers
}

// many is one call of GetMany.
type many[V any] struct {
	l     *Loader[V]
	ctx   context.Context // of the call, which it does not outlive
	keys  []string
	load  ManyFunc[V]
	limit int
	aim   aim

	answers []Answer[V]
	members []*member[V] // of those who wait for a flight
	sights  []sight
}

// join joins the flights under way, and returns which keys have none.
func (c *many[V]) join() []int {
	var others []int
	some := c.l.flights.some.Load()
	for i, key := range c.keys {
		if some {
			c.members[i], c.answers[i].Err = c.l.flights.board(c.ctx, key, nil)
		}
		if c.members[i] == nil && c.answers[i].Err == nil {
			others = append(others, i)
		}
	}
	return others
}

// read answers the keys whose values are there, and returns the others.
func (c *many[V]) read(is []int) (others []int) {
	keys := make([]string, len(is))
	for j, i := range is {
		keys[j] = c.keys[i]
	}
	var aside []int
	c.l.readMany(c.ctx, keys, func(j int, b []byte, err error) {
		i := is[j]
		v, s := c.l.see(c.keys[i], b, err, true)
		c.sights[i] = s
		switch {
		case s.kind.served():
			c.answers[i] = Answer[V]{Value: v, Outcome: c.l.count(s.kind)}
			if s.kind == due || s.kind == stale {
				aside = append(aside, i)
			}
		case s.kind == none:
			c.answers[i] = Answer[V]{Outcome: c.l.count(none), Err: ErrNotFound}
		default:
			others = append(others, i)
		}
	})
	if len(aside) > 0 {
		c.fly(aside, nobody)
	}
	c.learn(len(is), len(others))
	return others
}

// learn notes whether most keys are missing.
func (c *many[V]) learn(asked, missing int) {
	if asked > 0 {
		c.l.cold.Store(2*missing > asked)
	}
}

// board boards the flights of keys, or starts them.
func (c *many[V]) board(is []int) {
	if len(is) == 0 {
		return
	}
	members, errs := c.fly(is, readers)
	for j, i := range is {
		c.members[i], c.answers[i].Err = members[j], errs[j]
	}
}

// fly boards the flights of keys, or starts them.
func (c *many[V]) fly(is []int, who boarding) ([]*member[V], []error) {
	l, load, limit, a := c.l, c.load, c.limit, c.aim
	keys, sights := make([]string, len(is)), make([]sight, len(is))
	for j, i := range is {
		keys[j], sights[j] = c.keys[i], c.sights[i]
	}
	single := func(j int) func(*flight[V]) { return l.flown(keys[j], is[j], sights[j], a, load) }
	again := func(j int) func(*flight[V]) { return l.flown(keys[j], is[j], sight{}, l.usual(), load) }
	return l.flights.boardAll(c.ctx, keys, who, again, func(fs []*flight[V], js []int) {
		if limit > 0 || len(fs) == 1 {
			apart(fs, js, max(limit, 1), single)
			return
		}
		ps := make([]*pursuit[V], len(fs))
		for n, f := range fs {
			ps[n] = l.pursue(f, keys[js[n]], is[js[n]], sights[js[n]], a)
		}
		r := &run[V]{l: l, ctx: fs[0].ctx, load: load}
		r.fly(ps...)
	})
}

// apart flies flights each by itself, at most limit at a time.
func apart[V any](fs []*flight[V], js []int, limit int, single func(j int) func(*flight[V])) {
	places := make(chan struct{}, limit)
	var wg sync.WaitGroup
	for n, f := range fs {
		places <- struct{}{}
		wg.Add(1)
		f.part(func() {
			defer func() {
				<-places
				wg.Done()
			}()
			single(js[n])(f)
		})
	}
	wg.Wait()
}

// wait waits for the flights.
func (c *many[V]) wait() {
	var over chan struct{}
	l := c.l
	if l.softTimeout > 0 && l.swr+l.sie > 0 {
		over = make(chan struct{})
		timer := time.AfterFunc(l.softTimeout, func() { close(over) })
		defer timer.Stop()
	}
	hits := 0
	var late []int
	for i, m := range c.members {
		if m == nil {
			continue
		}
		res, done := l.flights.wait(c.ctx, m, over)
		if !done {
			late = append(late, i)
			continue
		}
		if c.answer(i, l.rescue(c.ctx, c.keys[i], res)) {
			hits++
		}
	}
	for _, i := range late {
		c.answer(i, l.rescue(c.ctx, c.keys[i], l.waitLate(c.ctx, c.keys[i], c.members[i])))
	}
	if l.cold.Load() && c.limit == 0 {
		c.learn(len(c.keys), len(c.keys)-hits)
	}
}

// answer answers a key by what its flight has found, and reports whether that was
// there without one.
func (c *many[V]) answer(i int, res result[V]) bool {
	a := &c.answers[i]
	a.Value, a.Outcome, a.Err = c.l.answer(res)
	switch a.Outcome {
	case OutcomeHit:
		c.l.stats.hits.Add(1)
	case OutcomeNotFound:
		c.l.stats.notFoundHits.Add(1)
	case OutcomeStale:
	default:
		c.l.stats.misses.Add(1)
		return false
	}
	return true
}

// readMany calls got with what GET returns for each key, in one round trip for
// each 500. It leaves when ctx is done or Redis is silent for too long.
func (l *Loader[V]) readMany(ctx context.Context, keys []string, got func(i int, b []byte, err error)) {
	is := make([]int, 0, len(keys)) // of those that are worth asking for
	for i, key := range keys {
		if away := l.refusal(key); away != nil {
			got(i, nil, away)
		} else {
			is = append(is, i)
		}
	}
	for some := range slices.Chunk(is, most) {
		began := time.Now()
		cmds, err := ask(l, ctx, func(ctx context.Context) ([]redis.Cmder, error) {
			return l.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
				for _, i := range some {
					p.Get(ctx, keys[i])
				}
				return nil
			})
		})
		errs := make([]error, len(some))
		for j, i := range some {
			var b []byte
			one := err
			if len(cmds) > j {
				b, one = cmds[j].(*redis.StringCmd).Bytes()
				if one == nil && b == nil { // a hook refused the pipeline as a whole
					one = err
				}
			}
			if one == nil && len(cmds) <= j {
				one = fmt.Errorf("Redis did not answer")
			}
			errs[j] = one
			got(i, b, one)
		}
		l.tell(ctx, began, len(some), func(j int) (string, error) { return keys[some[j]], errs[j] })
	}
}
