// Package circuit tells readers of a Redis that is away not to wait for it.
package circuit

import (
	"context"
	"errors"
	"fmt"
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
// They are shared by all that read through the client, as what one of them finds out
// is true for the others. Only reads ask them. A write that is not sent is a lie, or
// a lease that is not given back; but how it ended is evidence too.
//
// They are safe for concurrent use.
type Circuits struct {
	rdb redis.UniversalClient
	all []Circuit // one, or ofCluster
}

// ofCluster is how many circuits a Cluster has, each for a range of slots:
// a master that died does not stop reads of the others. There is no circuit a
// master, for who serves which slot changes, and we would learn it too late.
const ofCluster = 64

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
	n := 1
	if client.TopologyOf(rdb) == client.Cluster {
		n = ofCluster
	}
	cs := &Circuits{rdb: rdb, all: make([]Circuit, n)}
	for i := range cs.all {
		cs.all[i].rdb = rdb
		cs.all[i].b.Most = mostWait
	}
	return cs
}

// Of returns the circuit of a key in Redis.
func (cs *Circuits) Of(key string) *Circuit { return &cs.all[cs.index(key)] }

func (cs *Circuits) index(key string) int {
	if len(cs.all) == 1 {
		return 0
	}
	return slot(key) / (slots / ofCluster)
}

// Done says how n commands of one round trip have ended, as Circuit.Done does: once
// for each circuit, since they have failed together if they have. ended returns the
// key in Redis of the i-th, and its error.
func (cs *Circuits) Done(ctx context.Context, began time.Time, n int, ended func(i int) (key string, err error)) {
	var told [ofCluster]bool
	for i := range n {
		key, err := ended(i)
		at := cs.index(key)
		if !told[at] {
			told[at] = true
			cs.all[at].Done(ctx, began, err)
		}
		if i == 0 && len(cs.all) == 1 && err == nil {
			return
		}
	}
}

// State returns the state of the worst of them.
func (cs *Circuits) State() breaker.State {
	worst := breaker.Closed
	for i := range cs.all {
		switch s := cs.all[i].b.State(); {
		case s == breaker.Open, worst == breaker.Closed:
			worst = s
		}
	}
	return worst
}

// opened returns how often a circuit has opened, all of them together.
func (cs *Circuits) opened() (n int64) {
	for i := range cs.all {
		n += cs.all[i].b.Opened()
	}
	return n
}

// A Circuit is one Redis server, as seen by a client, or some slots of a Cluster.
type Circuit struct {
	rdb  redis.UniversalClient
	b    breaker.Breaker
	away atomic.Pointer[error] // what a reader gets while it is open; set before it opens
}

// ErrAway says that Redis was not asked. What wraps it wraps the reason too.
var ErrAway = errors.New("Redis is not asked, since it did not answer lately")

// Allow returns nil if Redis may be read, else the error of such a read, which
// wraps the last failure. While all is well it is one atomic load.
func (c *Circuit) Allow() error {
	if c.b.Allow() {
		return nil
	}
	return *c.away.Load()
}

// Done says how a call to Redis ended that the caller made under ctx at began,
// allowed or not. ctx is that of a caller, who may leave at any time, and not
// one that bounds how long Redis may take. began may be zero, see weigh.
func (c *Circuit) Done(ctx context.Context, began time.Time, err error) {
	switch weigh(ctx, began, err) {
	case answered:
		c.b.Success()
	case failed:
		c.fail(err, false)
	case refused:
		c.fail(err, true)
	}
}

// fail says that Redis has failed. While open it is for the probe alone to say
// so, who does it with b.Failure: a write that fails would end the probe.
func (c *Circuit) fail(err error, sure bool) {
	script.Failed(c.rdb, err)
	if c.b.Allow() {
		c.blame(err)
		c.b.Failure(sure)
	}
}

func (c *Circuit) blame(cause error) {
	err := fmt.Errorf("%w: %w", ErrAway, cause)
	c.away.Store(&err)
}

// probeTimeout is what a probe gives Redis. The client may take longer.
const probeTimeout = time.Second

// Probe finds out whether Redis is back, if it is time to. Who was not allowed to
// read calls it and goes on. One of them gets to ask: send, which reads
// something, then runs in a goroutine of spawn.
func (c *Circuit) Probe(spawn guard.Spawn, send func(context.Context) error) {
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
			return
		}
		script.Failed(c.rdb, err)
		c.blame(err)
		c.b.Failure(sign == refused)
	})
}
