// Package engine loads each key once: once in a process, by a flight, and once in
// the fleet, by a lease in Redis. It stores the result only if the key was not
// deleted or written since the load began, and gives it only to callers of which
// the same is true:
//
//	After a deletion has returned, no call that starts later gets a value whose
//	load began before it.
//
// The rule holds across processes, and for deletions by any program. It does not
// hold if Redis loses the deletion, as an asynchronous failover can.
//
// Package engine has no type parameters for values: it is compiled once for all
// types that a program caches. Values are in boxes; see Codec and Target.
package engine

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/circuit"
	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/gather"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/saturate"
	"github.com/cachex-go/cachex/internal/waitfor"
	"github.com/cachex-go/cachex/internal/wake"
)

// longest returns the longest pause that a back-off of d makes at random.
func longest(d time.Duration) time.Duration { return d / 5 * 6 }

// An Engine loads each key once for the fleet: a flight in this process, and a
// lease in Redis. Packages cachex and loader are typed fronts of it. Its values are
// in boxes. It is safe for concurrent use.
type Engine struct {
	rdb     redis.UniversalClient
	gather  *gather.Client // of all who read on rdb
	apart   bool           // Options.NoCombining
	codec   Codec
	seal    sealer // nil: the codec does not authenticate
	leases  Leases
	flights group
	reads   reads
	slots   *waitfor.Pool     // nil: no limit
	hear    *wake.Listener    // nil: poll only
	away    *circuit.Circuits // whether Redis is worth asking

	swr, sie    int64         // milliseconds
	longest     int64         // milliseconds that a lease or a pause can last
	softTimeout time.Duration // 0: without end
	backoff     time.Duration
	early       float64

	closing sync.Once
	deaf    chan struct{} // closed when hear and gather are released

	size  gather.Size  // of an entry
	spare sync.Pool    // of *[]Answer, zero
	cold  atomic.Bool  // most of many keys were missing
	cost  atomic.Int64 // nanoseconds: moving average of what loads cost, 0 before the first
	quick atomic.Int64 // nanoseconds: what the quickest load of late took, 0 before the first
	stats counters
}

// Options describe an Engine. They are documented at loader.Options and at the
// fields of the same names of cachex.Spec.
type Options struct {
	LeaseTTL, Timeout                               time.Duration
	MaxLoads                                        int
	StaleWhileRevalidate, StaleIfError, SoftTimeout time.Duration
	Backoff                                         time.Duration
	EarlyRefresh                                    float64
	NoCombining                                     bool

	// Packed says that every entry is a field of a Redis hash. A key is then the key
	// of the hash, a space, and the field, which has no space. Redis does not expire
	// fields, so readers decide by their own clocks whether a value is fresh. An entry
	// does not record how long its load took, so EarlyRefresh uses the time that loads
	// take in this process. Defaults to false.
	Packed bool
}

// MaxBackoff is the longest time without a load after loads that failed, but for
// the random part, unless typedOptions.Backoff is longer.
const MaxBackoff = time.Minute

// New returns an Engine, or an error that names the option that is wrong. It makes
// no call to Redis.
func New(rdb redis.UniversalClient, c Codec, o Options) (*Engine, error) {
	if o.LeaseTTL == 0 {
		o.LeaseTTL = defaults.LeaseTTL()
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.Backoff == 0 {
		o.Backoff = time.Second
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	leases, err := NewLeases(rdb, o.LeaseTTL)
	if err != nil {
		return nil, err
	}
	l := &Engine{
		rdb: rdb, codec: c, seal: sealerOf(c.Codec()), leases: *leases, deaf: make(chan struct{}),
		swr: o.StaleWhileRevalidate.Milliseconds(), sie: o.StaleIfError.Milliseconds(),
		longest:     saturate.Mul(max(o.LeaseTTL, o.Backoff, MaxBackoff), 2).Milliseconds() + slack,
		softTimeout: o.SoftTimeout, backoff: o.Backoff, early: o.EarlyRefresh,
	}
	l.gather, l.apart = gather.For(rdb), o.NoCombining
	l.leases.stale, l.leases.timed, l.leases.packed = l.swr+l.sie, o.EarlyRefresh > 0, o.Packed
	l.leases.pause, l.leases.most = longest(o.Backoff).Milliseconds()/2+1, longest(max(o.Backoff, MaxBackoff)).Milliseconds()+1
	l.cold.Store(true)
	l.flights.timeout = o.Timeout
	l.reads.init()
	l.slots = waitfor.NewPool(o.MaxLoads)
	l.hear, l.away = wake.For(rdb), circuit.For(rdb)
	l.leases.hear = l.hear
	return l, nil
}

// check returns an error that names the option that is wrong.
func (o *Options) check() error {
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"Timeout", o.Timeout}, {"StaleWhileRevalidate", o.StaleWhileRevalidate}, {"StaleIfError", o.StaleIfError},
		{"SoftTimeout", o.SoftTimeout}, {"Backoff", o.Backoff},
	} {
		if d.d < 0 {
			return fmt.Errorf("%s is %v, must not be negative", d.name, d.d)
		}
	}
	switch {
	case o.MaxLoads < 0:
		return fmt.Errorf("MaxLoads is %d, must not be negative", o.MaxLoads)
	case o.EarlyRefresh < 0 || math.IsNaN(o.EarlyRefresh) || math.IsInf(o.EarlyRefresh, 0):
		return fmt.Errorf("EarlyRefresh is %v, must not be negative", o.EarlyRefresh)
	}
	return nil
}

// GetOrLoad returns the value of key, in a box, and where it came from. If Redis
// has no value, one caller in the fleet calls t.Load and stores the result; the
// other callers wait for it. If Redis does not answer, t.Load is called once at a
// time in this process, and nothing is stored. A hit allocates nothing that only
// a load needs.
//
// A hit is one plain GET, and not a script that takes the lease in the same round
// trip: a server that pauses writes or fails over still answers a GET, and a
// script costs the server several times as much. Callers that ask for the same
// key before the GET is sent share it.
//
// The error is the error of the load; or the cause of the end of ctx, and the
// load goes on for the other callers; or a *PanicError, ErrGoexit, ErrClosed or
// ErrReentrant. An error is not stored: the next caller, in any process, loads
// again. But if a stale value may be served, it is, and the next load waits for
// Options.Backoff. ErrNotFound is stored if the load returned a Life with it. If
// Redis fails, or a value cannot be stored, GetOrLoad returns no error, and Stats
// count it.
func (l *Engine) GetOrLoad(ctx context.Context, key string, t Target) (any, Outcome, error) {
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	r := reading{l: l, key: key}
	defer r.end()
	if !r.join(ctx) {
		if away := l.refusal(key); away != nil {
			l.stats.bypasses.Add(1)
			r.m, r.err = l.board(ctx, key, sight{away: away}, nil, t)
		} else if r.await(ctx, true) {
			v := t.Box()
			s := l.open(ctx, &r, true, v)
			switch {
			case s.kind.served():
				if s.kind == due || s.kind == stale {
					l.ahead(ctx, key, s, t)
				}
				return v, l.count(s.kind), nil
			case s.kind == none:
				return nil, l.count(none), ErrNotFound
			}
			r.m, r.err = l.board(ctx, key, s, r.followers(), t)
		}
	}
	if r.err != nil {
		return nil, 0, r.err
	}
	if !r.counted {
		l.stats.misses.Add(1)
	}
	r.end() // who still waits to read finds the flight
	return l.answer(l.wait(ctx, key, r.m))
}

// board joins the flight of key, or starts one, and has bring take others on
// board. It is a function of its own since it allocates what a hit has no use
// for.
func (l *Engine) board(ctx context.Context, key string, s sight, bring func(*flight), t Target) (*member, error) {
	m, _, err := l.flights.embark(ctx, key, false, l.single(key, s, t.Load), bring)
	return m, err
}

// ahead loads a new value while the one that is there is served.
func (l *Engine) ahead(ctx context.Context, key string, s sight, t Target) {
	l.flights.leaveAside(ctx, key, l.single(key, s, t.Load))
}

// Find returns the value of key in Redis, and its Outcome: OutcomeHit,
// OutcomeStale, OutcomeNotFound, or 0 if Redis has no entry. It neither loads nor
// waits for a load. A stale value counts for StaleWhileRevalidate.
//
// v is a pointer to a zero value. Find sets it and returns it, or returns nil if
// there is no value. The error is a failure of Redis, or the cause of the end of
// ctx. Bytes that cannot be decoded are no value, and are counted.
func (l *Engine) Find(ctx context.Context, key string, v any) (any, Outcome, error) {
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	if away := l.refusal(key); away != nil {
		l.stats.bypasses.Add(1)
		return nil, 0, away
	}
	r := reading{l: l, key: key}
	defer r.end()
	if !r.await(ctx, false) {
		return nil, 0, context.Cause(ctx)
	}
	return l.looked(ctx, v, l.open(ctx, &r, false, v))
}

// looked is what Find returns of what was seen.
func (l *Engine) looked(ctx context.Context, v any, s sight) (any, Outcome, error) {
	switch {
	case s.kind.served() && s.kind != pausing:
		return v, l.count(s.kind), nil
	case s.kind == none:
		return nil, l.count(none), nil
	case s.away != nil && ctx.Err() != nil:
		return nil, 0, context.Cause(ctx)
	case s.away != nil:
		return nil, 0, s.away
	}
	l.stats.misses.Add(1)
	return nil, 0, nil
}

// Forget detaches the loads of keys that are under way in this process: their
// callers get the result, and later callers load again. After a write or a
// deletion of a key, call it when Redis has answered.
func (l *Engine) Forget(keys ...string) { l.flights.Forget(keys...) }

// Leases returns the leases that l takes, for code that writes or expires keys.
func (l *Engine) Leases() *Leases { return &l.leases }

// Stats returns a snapshot of the counters.
func (l *Engine) Stats() Stats {
	s := l.stats.snapshot()
	s.Breaker = l.away.State()
	return s
}

// Close makes further loads return ErrClosed, waits for loads under way, and ends
// the subscription for wake-ups. If ctx ends first, Close cancels the loads and
// returns the cause. Values in Redis can still be read. The client stays open.
func (l *Engine) Close(ctx context.Context) error {
	err := l.flights.Close(ctx)
	l.closing.Do(func() {
		wait, idle := l.hear.Release(), l.gather.Release()
		if wait == nil && over(idle) {
			close(l.deaf)
			return
		}
		// Ends with the listener's goroutine, which the client may hold up
		// while it dials, and with reads that their callers have left.
		guard.Go(guard.Client, func() error {
			if wait != nil {
				wait()
			}
			<-idle
			return nil
		}, func(error) { close(l.deaf) })
	})
	if err != nil {
		return err
	}
	select {
	case <-l.deaf:
		return nil
	default:
	}
	select {
	case <-l.deaf:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// expect returns what a load is going to cost, 0 before the first.
func (l *Engine) expect() time.Duration { return time.Duration(l.cost.Load()) }

// learn takes a load's cost into the average. Two at the same time may lose
// one.
func (l *Engine) learn(took time.Duration) {
	old := l.cost.Load()
	if old == 0 {
		old = int64(took)
	}
	l.cost.Store(max(1, old+(int64(took)-old)/4))
	l.hasten(took)
}

// hasten takes into the shortest time of late what a load took, even one that
// failed.
func (l *Engine) hasten(took time.Duration) {
	old := l.quick.Load()
	if old == 0 || int64(took) < old {
		old = int64(took)
	}
	l.quick.Store(max(1, old+(int64(took)-old)/8))
}
