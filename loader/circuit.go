package loader

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/breaker"
)

// Circuits say, for one client, whether Redis is worth asking. A client whose
// Redis is away tries for seconds before it gives up, once a call: readers would
// all wait for that, and then load. So once a few calls have failed nobody reads,
// but for one probe now and then in the background.
//
// They are shared by all loaders of the client, as what one of them finds out is
// true for the others. Only reads ask them. A write that is not sent is a lie, or
// a lease that is not given back; but how it ended is evidence too.
type circuits struct {
	rdb   redis.UniversalClient
	all   []circuit // one, or clusterCircuits
	users int       // guarded by circuitSets.mu; never above 0 if they are not in there
}

// clusterCircuits is how many circuits a Cluster has, each for a range of slots:
// a master that died does not stop reads of the others. There is no circuit a
// master, for who serves which slot changes, and we would learn it too late.
const clusterCircuits = 64

// circuitSets has the circuits of every client in use.
var circuitSets = struct {
	mu sync.Mutex
	m  map[redis.UniversalClient]*circuits // guarded by mu
}{m: make(map[redis.UniversalClient]*circuits)}

// circuitsFor returns the circuits of rdb, for whoever calls release later.
// Clients that cannot be told apart have some of their own each time.
func circuitsFor(rdb redis.UniversalClient) *circuits {
	if !reflect.ValueOf(rdb).Comparable() {
		return newCircuits(rdb)
	}
	circuitSets.mu.Lock()
	defer circuitSets.mu.Unlock()
	cs := circuitSets.m[rdb]
	if cs == nil {
		cs = newCircuits(rdb)
		circuitSets.m[rdb] = cs
	}
	cs.users++
	return cs
}

func newCircuits(rdb redis.UniversalClient) *circuits {
	n := 1
	if _, ok := rdb.(*redis.ClusterClient); ok {
		n = clusterCircuits
	}
	return &circuits{rdb: rdb, all: make([]circuit, n)}
}

// release undoes one circuitsFor. Who still has the circuits may use them on.
func (cs *circuits) release() {
	circuitSets.mu.Lock()
	defer circuitSets.mu.Unlock()
	if cs.users--; cs.users == 0 {
		delete(circuitSets.m, cs.rdb)
	}
}

// of returns the circuit of key.
func (cs *circuits) of(key string) *circuit { return &cs.all[cs.index(key)] }

func (cs *circuits) index(key string) int {
	if len(cs.all) == 1 {
		return 0
	}
	return int(slot(key)) / (slots / clusterCircuits)
}

// state returns the state of the worst of them.
func (cs *circuits) state() breaker.State {
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
func (cs *circuits) opened() (n int64) {
	for i := range cs.all {
		n += cs.all[i].b.Opened()
	}
	return n
}

// A circuit is one Redis server, as seen by a client, or some slots of a Cluster.
type circuit struct {
	b    breaker.Breaker
	away atomic.Pointer[error] // what a reader gets while it is open; set before it opens
}

// errAway says that Redis was not asked. What wraps it wraps the reason too.
var errAway = errors.New("Redis is not asked, since it did not answer lately")

// allow returns nil if Redis may be read, else the error of such a read, which
// wraps the last failure. While all is well it is one atomic load.
func (c *circuit) allow() error {
	if c.b.Allow() {
		return nil
	}
	return *c.away.Load()
}

// done says how a call to Redis ended that the caller made under ctx at began,
// allowed or not. ctx is that of a caller, who may leave at any time, and not
// one that bounds how long Redis may take. began may be zero, see weigh.
func (c *circuit) done(ctx context.Context, began time.Time, err error) {
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
func (c *circuit) fail(err error, sure bool) {
	if c.b.Allow() {
		c.blame(err)
		c.b.Failure(sure)
	}
}

func (c *circuit) blame(cause error) {
	err := fmt.Errorf("%w: %w", errAway, cause)
	c.away.Store(&err)
}

// probeTimeout is what a probe gives Redis. The client may take longer.
const probeTimeout = time.Second

// probe finds out whether Redis is back, if it is time to. Who was not allowed to
// read calls it and goes on. One of them gets to ask: send, which reads
// something, then runs in a goroutine of spawn. That reports false if it takes no
// more of them; then the caller itself asks, or nobody would.
func (c *circuit) probe(spawn func(func()) bool, send func(context.Context) error) {
	if !c.b.Probe() {
		return
	}
	ask := func() {
		err := errSilent // should a hook of the client panic
		defer func() {
			sign := weigh(context.Background(), time.Time{}, err)
			if sign == answered {
				c.b.Success()
				return
			}
			c.blame(err)
			c.b.Failure(sign == refused)
		}()
		ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
		defer cancel()
		err = send(ctx)
	}
	if !spawn(ask) {
		ask()
	}
}

// evidence is what the end of a call says about Redis.
type evidence int

const (
	moot     evidence = iota // nothing
	answered                 // it is there
	failed                   // it may be away
	refused                  // it is away
)

// lull is how long a caller must have waited in vain for its leaving to say
// something about Redis.
const lull = 100 * time.Millisecond

// weigh returns what err says, with which a call ended that began at began.
//
// A caller who leaves says nothing about Redis, unless it had waited for a while:
// where all of them have deadlines that are shorter than the client's timeouts,
// or than its retries, nobody ever sees another error, however long Redis is
// away. If began is zero, leaving is moot.
func weigh(ctx context.Context, began time.Time, err error) evidence {
	if err == nil || err == redis.Nil {
		return answered
	}
	if errors.Is(err, errAway) || errors.Is(err, redis.ErrClosed) {
		return moot
	}
	if reply, ok := errors.AsType[redis.Error](err); ok {
		return weighReply(reply)
	}
	if left(ctx, err) {
		if !began.IsZero() && time.Since(began) >= lull {
			return failed
		}
		return moot
	}
	// That of the dial itself, and of the last one if the pool dials no more.
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
		return refused
	}
	return failed
}

// left reports whether err says merely that a caller has left. A cancelled ctx
// need not be ours: commands that the client joins fail together.
func left(ctx context.Context, err error) bool {
	switch {
	case errors.Is(err, context.Canceled):
		return true
	case ctx.Err() == nil:
		return false
	default:
		return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Cause(ctx))
	}
}

// weighReply returns what an error says that Redis itself has replied. That is
// nearly always that it is there, and does not want this command. The exceptions
// are those that every read would get, and after the client has tried it again
// for a while. TRYAGAIN is none of them: only commands of several keys get it.
func weighReply(reply redis.Error) evidence {
	text := strings.TrimPrefix(reply.Error(), "ERR ")
	for _, prefix := range []string{"LOADING ", "MASTERDOWN ", "CLUSTERDOWN ", "max number of clients reached"} {
		if strings.HasPrefix(text, prefix) {
			return failed
		}
	}
	return answered
}
