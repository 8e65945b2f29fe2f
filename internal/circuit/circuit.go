// Package circuit tells readers of a Redis that is away not to wait for it.
package circuit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/breaker"
	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// Circuits say, for one client, whether Redis is worth asking. A client whose
// Redis is away tries for seconds before it gives up, once a call: readers would
// all wait for that, and then load. So once a few calls have failed nobody reads,
// but for one probe now and then in the background.
//
// Each server has a circuit of its own, so that one that is away stops no reads of
// the others. On a Cluster, the server of a key is the one that the client sends it
// to, as far as the client knows. When it learns of another, that one is asked. Of
// a client that does not tell, 256 slots have a circuit together.
//
// They are shared by all that read through the client, as what one of them finds out
// is true for the others. Only reads ask them. A write that is not sent is a lie, or
// a lease that is not given back; but how it ended is evidence too.
//
// They are safe for concurrent use.
type Circuits struct {
	rdb    redis.UniversalClient
	server func(key string) string // names what has the circuit of a key

	// troubled has the circuits of the servers that failed last, by name. It is nil
	// while all is well, and that is all that a read then looks at. It is replaced as a
	// whole, under mu.
	troubled atomic.Pointer[map[string]*Circuit]

	mu     sync.Mutex
	before int64 // guarded by mu: how often circuits have opened that are in troubled no more
}

// mostWait is the longest interval between two probes. It bounds how long after the
// end of an outage readers go on without Redis, and how often a server that comes
// back is dialled by a fleet of readers.
const mostWait = 2 * time.Second

// clients has the circuits of every client in use.
var clients client.Shared[Circuits]

// For returns the circuits of rdb. Clients that cannot be told apart have some of
// their own each time.
func For(rdb redis.UniversalClient) *Circuits {
	return clients.For(rdb, func() *Circuits { return newCircuits(rdb) }, nil)
}

func newCircuits(rdb redis.UniversalClient) *Circuits {
	return &Circuits{rdb: rdb, server: servers(rdb)}
}

// Server names the server of a key in Redis.
func (cs *Circuits) Server(key string) string { return cs.server(key) }

// Of returns the route of a key in Redis.
func (cs *Circuits) Of(key string) Route { return Route{cs, key} }

// A Route is the way to the server of a key.
type Route struct {
	cs  *Circuits
	key string
}

// Allow returns nil if Redis may be read, else the error of such a read, which
// wraps the last failure. While all is well it is one atomic load.
func (r Route) Allow() error {
	if c := r.circuit(); c != nil {
		return c.allow()
	}
	return nil
}

// circuit returns the circuit of the server, or nil if that has not failed.
func (r Route) circuit() *Circuit {
	all := r.cs.troubled.Load()
	if all == nil {
		return nil
	}
	return (*all)[r.cs.server(r.key)]
}

// Done says how a call to Redis ended that the caller made under ctx at began,
// allowed or not. ctx is that of a caller, who may leave at any time, and not
// one that bounds how long Redis may take. began may be zero, see weigh.
func (r Route) Done(ctx context.Context, began time.Time, err error) {
	r.cs.take(r.key, weigh(ctx, began, err), err)
}

// Probe finds out whether Redis is back, if it is time to. Who was not allowed to
// read calls it and goes on. One of them gets to ask: send, which reads
// something, then runs in a goroutine of spawn.
func (r Route) Probe(spawn guard.Spawn, send func(context.Context) error) {
	if c := r.circuit(); c != nil {
		c.probe(r.cs.rdb, spawn, send, func() { r.cs.settle(c.name) })
	}
}

// Done says how n commands of one round trip have ended, as Route.Done does: once
// for each server, since they have failed together if they have. One that was
// answered speaks for the others of its server. ended returns the key in Redis of
// the i-th, and its error.
//
// If the caller left before several servers had answered, all of these are blamed,
// though one may have held up the others. The first probe tells them apart, and from
// then on the silent one is not asked together with the others.
func (cs *Circuits) Done(ctx context.Context, began time.Time, n int, ended func(i int) (key string, err error)) {
	if cs.troubled.Load() == nil && cs.fine(ctx, began, n, ended) {
		return
	}
	type end struct {
		key  string
		sign evidence
		err  error
	}
	ends := make(map[string]end)
	for i := range n {
		key, err := ended(i)
		name, sign := cs.server(key), weigh(ctx, began, err)
		if was, told := ends[name]; !told || was.sign == moot || sign == answered && was.sign != answered {
			ends[name] = end{key, sign, err}
		}
	}
	for _, e := range ends {
		cs.take(e.key, e.sign, e.err)
	}
}

// fine reports whether all of n commands were answered.
func (cs *Circuits) fine(ctx context.Context, began time.Time, n int, ended func(i int) (key string, err error)) bool {
	for i := range n {
		if _, err := ended(i); weigh(ctx, began, err) != answered {
			return false
		}
	}
	return true
}

// take takes note of how a call for key ended.
func (cs *Circuits) take(key string, sign evidence, err error) {
	switch {
	case sign == failed, sign == refused:
		script.Failed(cs.rdb, err)
		cs.fail(cs.server(key), err, sign == refused)
	case sign == answered && cs.troubled.Load() != nil:
		cs.settle(cs.server(key))
	}
}

// fail says that a server has failed. It forgets those of which nobody has asked
// for long: they may have left the Cluster, and then nobody ever will.
func (cs *Circuits) fail(name string, err error, sure bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.forget(func(c *Circuit) bool { return c.name != name && c.idle() })
	c := cs.all()[name]
	if c == nil {
		c = &Circuit{name: name}
		c.b.Most = mostWait
		all := maps.Clone(cs.all())
		if all == nil {
			all = make(map[string]*Circuit)
		}
		all[name] = c
		cs.troubled.Store(&all)
	}
	c.fail(err, sure)
}

// settle says that a server has answered. Then the client knows its servers too, if
// it did not.
func (cs *Circuits) settle(name string) {
	if all := cs.all(); all[name] == nil && all[unknown] == nil {
		return
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.forget(func(c *Circuit) bool { return c.name == name || c.name == unknown })
}

// forget takes away circuits, which then are closed. The caller holds mu.
func (cs *Circuits) forget(gone func(*Circuit) bool) {
	rest := maps.Clone(cs.all())
	maps.DeleteFunc(rest, func(_ string, c *Circuit) bool {
		if !gone(c) {
			return false
		}
		c.b.Success()
		cs.before += c.b.Opened()
		return true
	})
	switch {
	case len(rest) == 0:
		cs.troubled.Store(nil)
	case len(rest) < len(cs.all()):
		cs.troubled.Store(&rest)
	}
}

func (cs *Circuits) all() map[string]*Circuit {
	if all := cs.troubled.Load(); all != nil {
		return *all
	}
	return nil
}

// State returns the state of the worst of them.
func (cs *Circuits) State() breaker.State {
	worst := breaker.Closed
	for _, c := range cs.all() {
		switch s := c.b.State(); {
		case c.idle():
		case s == breaker.Open, worst == breaker.Closed:
			worst = s
		}
	}
	return worst
}

// opened returns how often a circuit has opened, all of them together.
func (cs *Circuits) opened() int64 {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	n := cs.before
	for _, c := range cs.all() {
		n += c.b.Opened()
	}
	return n
}

// A Circuit is one Redis server that has failed, as seen by a client, or some slots
// of a Cluster.
type Circuit struct {
	name  string
	b     breaker.Breaker
	away  atomic.Pointer[error] // what a reader gets while it is open; set before it opens
	asked atomic.Int64          // when a reader was refused last, or it failed, in ns since 1970
}

// ErrAway says that Redis was not asked. What wraps it wraps the reason too.
var ErrAway = errors.New("Redis is not asked, since it did not answer lately")

func (c *Circuit) allow() error {
	if c.b.Allow() {
		return nil
	}
	c.asked.Store(time.Now().UnixNano())
	return *c.away.Load()
}

// fail says that the server has failed. While open it is for the probe alone to say
// so, who does it with b.Failure: a write that fails would end the probe.
func (c *Circuit) fail(err error, sure bool) {
	if c.b.Allow() {
		c.blame(err)
		c.b.Failure(sure)
	}
}

func (c *Circuit) blame(cause error) {
	err := fmt.Errorf("%w: %w", ErrAway, cause)
	c.away.Store(&err)
	c.asked.Store(time.Now().UnixNano())
}

// idle reports whether no reader has asked for a minute, nor has a call failed.
func (c *Circuit) idle() bool {
	return time.Since(time.Unix(0, c.asked.Load())) > time.Minute
}

// probeTimeout is what a probe gives Redis. The client may take longer.
const probeTimeout = time.Second

// probe is Route.Probe. It calls back if the server is back.
func (c *Circuit) probe(rdb redis.UniversalClient, spawn guard.Spawn, send func(context.Context) error, back func()) {
	if !c.b.Probe() {
		return
	}
	spawn(guard.Client, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
		defer cancel()
		return send(ctx)
	}, func(err error) {
		sign := weigh(context.Background(), time.Time{}, err)
		if sign == answered {
			c.b.Success()
			back()
			return
		}
		script.Failed(rdb, err)
		c.blame(err)
		c.b.Failure(sign == refused)
	})
}
