// Package circuit tells readers of an unavailable Redis not to wait for it.
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

// Circuits are the breakers of the servers of one client. If its Redis is down,
// a client retries for seconds in each call: every reader would wait for that,
// and then load. So after a few failures readers skip Redis, except one probe
// now and then in the background.
//
// Each server has its own circuit, so an unavailable one does not stop reads of
// the others. On a Cluster, the server of a key is the one to which the client
// sends it. When the client learns of another server, that one is asked. If the
// client does not reveal its servers, 256 slots share a circuit.
//
// All readers of the client share them, since an outcome seen by one reader
// holds for all. Only reads ask them: skipping a write would lose it, or leave
// a lease behind. But the outcomes of writes are reported too.
//
// Circuits are safe for concurrent use.
type Circuits struct {
	rdb    redis.UniversalClient
	server func(key string) string // names the server of a key

	// troubled has the circuits of the servers that failed recently, by name.
	// It is nil if none failed, and a read then looks at nothing else. It is
	// replaced as a whole, under mu.
	troubled atomic.Pointer[map[string]*Circuit]

	mu     sync.Mutex
	before int64 // guarded by mu: openings of circuits that have left troubled
}

// mostWait is the longest interval between two probes. It limits how long
// readers skip Redis after the end of an outage, and how often a fleet of
// readers dials a returning server.
const mostWait = 2 * time.Second

// clients has the Circuits of every client in use.
var clients client.Shared[Circuits]

// For returns the Circuits of rdb. If clients cannot be compared, each call
// returns new ones.
func For(rdb redis.UniversalClient) *Circuits {
	return clients.For(rdb, func() *Circuits { return newCircuits(rdb) }, nil)
}

func newCircuits(rdb redis.UniversalClient) *Circuits {
	return &Circuits{rdb: rdb, server: servers(rdb)}
}

// Server returns the name of the server of a Redis key.
func (cs *Circuits) Server(key string) string { return cs.server(key) }

// Of returns the Route of a Redis key.
func (cs *Circuits) Of(key string) Route { return Route{cs, key} }

// Route leads to the server of a key.
type Route struct {
	cs  *Circuits
	key string
}

// Allow returns nil if Redis may be read, otherwise the error of such a read,
// which wraps the last failure. If no server has failed, it is one atomic load.
func (r Route) Allow() error {
	if c := r.circuit(); c != nil {
		return c.allow()
	}
	return nil
}

// circuit returns the circuit of the server, or nil if the server has not
// failed.
func (r Route) circuit() *Circuit {
	all := r.cs.troubled.Load()
	if all == nil {
		return nil
	}
	return (*all)[r.cs.server(r.key)]
}

// Done reports the outcome of a call to Redis that the caller made under ctx at
// began, allowed or not. ctx must be the ctx of a caller, which may leave at any time, not one that limits the time of Redis. began may be zero, see classify.
func (r Route) Done(ctx context.Context, began time.Time, err error) {
	r.cs.record(r.key, classify(ctx, began, err), err)
}

// Probe finds out whether Redis is available again, if a probe is due. Rejected
// callers call it and go on. For at most one of them, send, which reads
// something, runs on a goroutine of spawn.
func (r Route) Probe(spawn guard.Spawn, send func(context.Context) error) {
	if c := r.circuit(); c != nil {
		c.probe(r.cs.rdb, spawn, send, func() { r.cs.settle(c.name) })
	}
}

// Done reports the outcomes of n commands of one round trip, like Route.Done:
// once for each server, since commands of one server fail together. One
// answered command outweighs the others of its server. ended returns the Redis
// key of the i-th command, and its error.
//
// If the caller left before several servers had answered, all of them are
// blamed, although one may have delayed the others. The first probe tells them
// apart, and from then on the silent server is not asked together with the
// others.
func (cs *Circuits) Done(ctx context.Context, began time.Time, n int, ended func(i int) (key string, err error)) {
	if cs.troubled.Load() == nil && cs.allAnswered(ctx, began, n, ended) {
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
		name, sign := cs.server(key), classify(ctx, began, err)
		if was, told := ends[name]; !told || was.sign == neutral || sign == success && was.sign != success {
			ends[name] = end{key, sign, err}
		}
	}
	for _, e := range ends {
		cs.record(e.key, e.sign, e.err)
	}
}

// allAnswered reports whether all of n commands were answered.
func (cs *Circuits) allAnswered(ctx context.Context, began time.Time, n int, ended func(i int) (key string, err error)) bool {
	for i := range n {
		if _, err := ended(i); classify(ctx, began, err) != success {
			return false
		}
	}
	return true
}

// record records the outcome of a command for key.
func (cs *Circuits) record(key string, sign evidence, err error) {
	switch {
	case sign == failure, sign == definite:
		script.Failed(cs.rdb, err)
		cs.fail(cs.server(key), err, sign == definite)
	case sign == success && cs.troubled.Load() != nil:
		cs.settle(cs.server(key))
	}
}

// fail records a failure of a server. It also forgets circuits that no reader
// has asked for long: their servers may have left the Cluster.
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

// settle records that a server has answered. The client then knows its servers
// too.
func (cs *Circuits) settle(name string) {
	if all := cs.all(); all[name] == nil && all[unknown] == nil {
		return
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.forget(func(c *Circuit) bool { return c.name == name || c.name == unknown })
}

// forget closes and removes circuits. The caller holds mu.
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

// State returns the worst state of all circuits.
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

// opened returns how often circuits have opened, in total.
func (cs *Circuits) opened() int64 {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	n := cs.before
	for _, c := range cs.all() {
		n += c.b.Opened()
	}
	return n
}

// Circuit is the breaker of one server that has failed, as seen by a client, or
// of some slots of a Cluster.
type Circuit struct {
	name  string
	b     breaker.Breaker
	cause atomic.Pointer[error] // the error of readers while open; set before it opens
	asked atomic.Int64          // when a reader was last rejected, or a call failed, in ns since 1970
}

// ErrAway reports that Redis was not asked. The error of a read also wraps the
// reason.
var ErrAway = errors.New("Redis was not asked, because it did not answer recently")

func (c *Circuit) allow() error {
	if c.b.Allow() {
		return nil
	}
	c.asked.Store(time.Now().UnixNano())
	return *c.cause.Load()
}

// fail records a failure of the server. While open, only the probe reports
// failures, through b.Failure: a failing write would end the probe.
func (c *Circuit) fail(err error, sure bool) {
	if c.b.Allow() {
		c.setCause(err)
		c.b.Failure(sure)
	}
}

func (c *Circuit) setCause(cause error) {
	err := fmt.Errorf("%w: %w", ErrAway, cause)
	c.cause.Store(&err)
	c.asked.Store(time.Now().UnixNano())
}

// idle reports whether for a minute no reader has asked and no call has failed.
func (c *Circuit) idle() bool {
	return time.Since(time.Unix(0, c.asked.Load())) > time.Minute
}

// probeTimeout limits a probe. The client may take longer.
const probeTimeout = time.Second

// probe implements Route.Probe. If the server answers, it calls back.
func (c *Circuit) probe(rdb redis.UniversalClient, spawn guard.Spawn, send func(context.Context) error, back func()) {
	if !c.b.Probe() {
		return
	}
	spawn(guard.Client, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
		defer cancel()
		return send(ctx)
	}, func(err error) {
		sign := classify(context.Background(), time.Time{}, err)
		if sign == success {
			c.b.Success()
			back()
			return
		}
		script.Failed(rdb, err)
		c.setCause(err)
		c.b.Failure(sign == definite)
	})
}
